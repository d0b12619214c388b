"""From torch modules to ONNX and OpenVINO files, in single precision or int8."""
