"""Prints template.yaml as SAM translates it, as JSON: `.venv-deploy/bin/python tests/deploy/translate.py`.

It runs in the deployment's environment, which alone has SAM's translator.
"""

import json
import sys
from pathlib import Path

from samtranslator.parser.parser import Parser  # type: ignore[import-not-found]
from samtranslator.translator.translator import Translator  # type: ignore[import-not-found]
from samtranslator.yaml_helper import yaml_parse  # type: ignore[import-not-found]

template = yaml_parse(Path(sys.argv[1]).read_text("utf-8"))
for resource in template["Resources"].values():
    # Where `sam deploy` puts what was built.
    for code in {"CodeUri", "ContentUri"} & resource.get("Properties", {}).keys():
        resource["Properties"][code] = "s3://bucket/key"
json.dump(Translator({}, Parser()).translate(template, {}), sys.stdout)
