"""What a graph is made of: shapes, layouts, strides, conv blocks, joins and stages."""
