"""Reading, searching and rewriting of model graphs, on onnx-ir."""
