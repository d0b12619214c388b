"""Files that several tests write."""

import io
import tarfile

from PIL import Image


def save_image(path, colour=(200, 10, 10), size=(40, 30)):
    Image.new("RGB", size, colour).save(path)
    return path


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path
