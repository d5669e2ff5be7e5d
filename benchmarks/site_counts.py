"""Compare the sites that `find_sites` finds with a count of another making, and with what is known.

Convolutions, activations and joins are counted by ``census.py``, stages are written down by hand,
from the architectures. Run as ``python benchmarks/site_counts.py [CORPUS]``: it prints the table of
``docs/sites.md``, and its exit status is 1 where a number differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from census import count_model

import onnx_structdrop as sd

if TYPE_CHECKING:
    from collections.abc import Iterable

MODELS = Path(__file__).parent.parent / "models"
POOLED = {"MaxPool", "AveragePool", "LpPool", "Pad", "Concat"}
"""Last operators of shortcuts that hold a pool and no convolution."""
COLUMNS = ("convs", "activations", "joins")

# Stages of each file, by its architecture: stride and number of blocks. Blocks are residual blocks,
# dense layers or inverted residuals where there are any, and convolutions elsewhere. A convolution
# before the first of those is the stem's, and none of a stage that holds nothing else.
RESNET18, RESNET50, TEST_RESNET, UNET, MOBILENETV2 = (
    ("ResNet-18", "4:2 8:2 16:2 32:2"),
    ("ResNet-50", "4:3 8:4 16:6 32:3"),
    ("ResNet, 1-1-1-1", "4:1 8:1 16:1 32:1"),
    ("U-Net, 3 levels", "1:6 2:5 4:5 8:2"),
    ("MobileNetV2", "2:1 4:2 8:3 16:7 32:4"),
)
KNOWN = {
    "actnet_half_dyn20_train": ("plain stack", "2:1 4:2 8:2"),
    "condnet_dyn20_eval": ("If branches", "2:1"),
    "condnet_dyn20_train": ("If branches", "2:1"),
    "convnext_dynamo": ("ConvNeXt", "4:1 8:1 16:2 32:1"),
    "densenet_dynamo": ("DenseNet", "4:2 8:3 16:3"),
    "fn_onnxscript_local": ("functions", "1:1"),
    "fp16_hf_resnet50w8_keepio": RESNET50,
    "hf_convnext_ts17": ("ConvNeXt", "4:1 8:1 16:3 32:1"),
    "hf_regnet_dyn18": ("RegNet-Y", "4:1 8:2 16:3 32:1"),
    "hf_resnet18w4_dyn23": RESNET18,
    "hf_resnet50w8_ts13": RESNET50,
    "hf_resnet50w8_ts17_bnkept": RESNET50,
    "keras_conv_spatial2d_tensorflow": ("plain stack", "1:1 2:1 4:1"),
    "keras_conv_spatial2d_torch": ("plain stack", "1:1 2:1 4:1"),
    "keras_densenet_mini_tensorflow": ("DenseNet", "4:2 8:3 16:3 32:2"),
    "keras_mobilenetv2_035_tensorflow": MOBILENETV2,
    "mobilenetv2_dynamo": ("MobileNetV2, small", "2:1 4:2 8:2 16:3 32:2"),
    "onnxnode_dropout_default_mask": ("one node", ""),
    "onnxnode_training_dropout": ("one node", ""),
    "onnxnode_training_dropout_mask": ("one node", ""),
    "q_timm_lcnet_qdq": ("LCNet, QDQ", "2:3 4:4 8:4 16:12 32:4"),
    "resnet18_dynamo": RESNET18,
    "resnet18_torchscript": RESNET18,
    "resnet1d_dyn20_dyn": ("ResNet, 1-D", "2:1 4:1 8:2 16:1"),
    "resnet1d_dynamo": ("ResNet, 1-D", "4:1 8:1 16:1 32:1"),
    "resnet3d_dyn20": ("ResNet, 3-D", "2:1 4:1 8:1 16:1"),
    "resnet3d_dynamo": ("ResNet, 3-D", "4:1 8:1 16:1"),
    "resnet_keras_tensorflow": ("ResNet, NHWC", "2:1 4:1 8:2"),
    "resnet_keras_torch": ("ResNet, NHWC", "2:1 4:1 8:2"),
    "timm_resnet18w4_dropblock_eval_dyn20": RESNET18,
    "timm_resnet18w4_dropblock_train_dyn20": RESNET18,
    "timm_test_convnext_dyn23": ("ConvNeXt", "4:1 8:2 16:4 32:2"),
    "timm_test_efficientnet_ts17_dyn": ("EfficientNet, small", "4:1 8:1 16:1 32:1"),
    "timm_test_resnet_hard_swish_dyn18": TEST_RESNET,
    "timm_test_resnet_leaky_relu_ts14": TEST_RESNET,
    "timm_test_resnet_relu6_dyn21": TEST_RESNET,
    "timm_test_resnet_silu_ts19": TEST_RESNET,
    "trap_bn_train": ("one conv", "1:1"),
    "trap_hardmask_threshold": ("one conv", "1:1"),
    "trap_identity_chain": ("one conv", "1:1"),
    "trap_input_to_output": ("no conv", ""),
    "trap_mask_used_twice": ("one conv", "1:1"),
    "trap_opset7_attr": ("one conv", "1:1"),
    "trap_ratio0_train": ("one conv", "1:1"),
    "trap_train_input": ("two convs", "1:2"),
    "tv_mobilenet_v2_035_ts13_nofold_train": MOBILENETV2,
    "tv_shufflenet_x0_5_dyn20": ("ShuffleNetV2", "8:4 16:8 32:4"),
    "unet2d_prelu_ts13": UNET,
    "unet2d_up_dyn20_train": UNET,
    "unet_dynamo": UNET,
    "unet_torchscript": UNET,
}


def found_stages(sites: Iterable[sd.Site]) -> str:
    """Return stride and number of blocks of each stage that was found."""
    stages: dict[int, list[sd.Site]] = {}
    for site in sites:
        if site.stage is not None:
            stages.setdefault(site.stage, []).append(site)
    return " ".join(
        f"{max(site.stride or 0 for site in stages[number]):g}:"
        f"{max(site.block or 0 for site in stages[number])}"
        for number in sorted(stages)
    )


def row(name: str, paths: list[Path]) -> tuple[list[str], bool]:
    """Return a row of the table, and whether every number agrees."""
    found, counted = Counter[str](), Counter[str]()
    agree = True
    stages = known = ""
    for path in paths:
        model = onnx.load(path, load_external_data=False)
        sites = sd.find_sites(model)
        kinds = Counter(site.kind for site in sites)
        pools = sum(s.kind == "shortcut" and s.op_type in POOLED for s in sites)
        here = Counter(
            convs=len(sites) - kinds["join"] - pools,
            activations=kinds["activation"],
            joins=kinds["join"],
        )
        count = count_model(model)
        there = Counter(
            convs=len(count.convs), activations=sum(count.convs.values()), joins=len(count.joins)
        )
        agree = agree and all(here[word] == there[word] for word in COLUMNS)
        found += here
        counted += there
        stages = found_stages(sites)
        known = KNOWN.get(path.stem, ("", stages))[1]
        agree = agree and stages == known
    several = len(paths) > 1
    family = f"{len(paths)} files" if several else KNOWN.get(paths[0].stem, ("?", ""))[0]
    cells = [f"{found[word]} / {counted[word]}" for word in COLUMNS]
    places = ["", ""] if several else [stages, known]
    return [name, family, *cells, *places, "yes" if agree else "**NO**"], agree


def main(arguments: list[str] | None = None) -> int:
    """Print the table of the sample models, and of a corpus if one is given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path, nargs="?", help="folder of further models")
    corpus = parser.parse_args(arguments).corpus
    groups = {path.stem: [path] for path in sorted(MODELS.glob("*.onnx"))}
    if corpus is not None:
        if not (corpus / "index.json").is_file():
            parser.error(f"{corpus} is no corpus: it has no index.json")
        for entry in json.loads((corpus / "index.json").read_text()):
            path = corpus / entry["file"]
            groups[path.stem] = [path]
        for path in sorted((corpus / "patterns").glob("*.onnx")):
            groups.setdefault(f"patterns/{path.stem.split('__')[0]}", []).append(path)
    header = ["model", "family", *COLUMNS, "stages found", "stages known", "agree"]
    lines = [header, ["---"] * len(header)]
    agree = True
    for name, paths in groups.items():
        cells, equal = row(name, paths)
        lines.append(cells)
        agree = agree and equal
    for cells in lines:
        print("|", " | ".join(cells), "|")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
