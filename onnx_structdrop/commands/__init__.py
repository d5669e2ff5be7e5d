"""The commands of ``structdrop``: a module each, with a function ``run(options)``.

`onnx_structdrop.commands.parser` declares all of them and imports none, so that help and usage
errors come at once.
"""
