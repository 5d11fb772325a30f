"""Codecs on a GPU, in Triton: the same bytes as on the host, for tensors that live there. Imported only where one is coded."""
