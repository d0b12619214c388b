"""Published and drawn data sets, each converted to a manifest. One module per data set."""
