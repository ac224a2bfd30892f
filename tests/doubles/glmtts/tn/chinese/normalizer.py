"""WeTextProcessing's habits: grammars in a folder, with the options that they were built with."""

import json
import os
import time
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


class Normalizer:
    """Takes the grammars that are there, whatever their options, unless told to overwrite."""

    def __init__(self, cache_dir=None, overwrite_cache=False, remove_erhua=True):
        path = Path(cache_dir or PACKAGE) / "zh_tn_tagger.fst"
        if overwrite_cache or not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("half a gram")
            time.sleep(float(os.environ.get("GLMTTS_DOUBLE_GRAMMARS_S", "0")))
            path.write_text(json.dumps({"remove_erhua": remove_erhua, "pid": os.getpid()}))
        self.built = json.loads(path.read_text())

    def normalize(self, text):
        return text.replace("儿", "") if self.built["remove_erhua"] else text
