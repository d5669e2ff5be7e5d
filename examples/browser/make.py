"""Put live dropout into the exported network: ``network.onnx`` becomes ``sampler.onnx``.

The file that comes out is plain ONNX with three functions in it, and the page samples it as it is.
Its dropout rate is an input, so that the page's slider can set it.
"""

from __future__ import annotations

from pathlib import Path

import onnx_structdrop as sd

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Insert spatial dropout behind the deeper blocks, where the network had it in training."""
    network = sd.load(HERE / "network.onnx")
    sites = [
        site
        for site in sd.find_sites(network)
        # Of the way down the ends of the two deepest levels, of the way up every block.
        if (site.stage >= 3 and site.block == 2) or site.block == 3
    ]
    model = sd.insert(network, sd.SpatialDropout2D(0.1, seed=0), sites, ratio_input="rate")
    sd.save(model, HERE / "sampler.onnx")
    print(f"sampler.onnx: dropout behind {len(sites)} of the network's blocks")


if __name__ == "__main__":
    main()
