"""Feature maps of networks that come as ONNX files, for users without their source."""
