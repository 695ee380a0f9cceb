# SPDX-License-Identifier: Apache-2.0
"""People detection over DetectNet_v2 models: what goes into one, and what is made of what comes out.

images.py (a file -> tensor) -> the model -> boxes.py (tensors -> boxes) -> drawing.py (boxes on the image)
   ^                                            layout.py: the shapes and constants of PeopleNet
scenes.py (streets drawn by a seed, their true boxes known) from streets/

demonstration.py: calls at once (calling.py) in regions of a kind (memory.py), what the statistics say of them (counting.py),
the same with another configuration (variants.py); samples.py: the repositories and the street that come with it
"""
