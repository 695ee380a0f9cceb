# SPDX-License-Identifier: Apache-2.0
"""What scenes are drawn of.

street.py, things.py (what stands in it) --+--> shapes.py (filled on a canvas)
pedestrians.py, bags.py -> figures.py -----+
looks.py: what one may look like
"""
