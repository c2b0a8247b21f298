"""What the reference implementation says, for word-piece.test.ts: a small BERT tokenizer in its two casings, and its ids.

    pip install tokenizers==0.23.3
    python word-piece.fixture.py ../../../README.md > word-piece.fixture.json

The random texts hold letters of Unicode 3.2 only: the reference's tables of letters are of several ages.
"""
import json, random, sys, unicodedata
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import WordPieceTrainer

OTHER = ["你好，世界！今天天气怎么样？", "日本語のテキスト", "Привет, мир! Ёлка", "naïve café ñ é e\u0301", "ﬁnd ① ²"]
CORPUS = open(sys.argv[1]).read().splitlines()[:400] + OTHER * 5
WORDS = ["the", "ing", " of", "##s", "'s", "é", "e\u0301", "[SEP]", "[UNK]", "中", "\n\n", "ΣΑΣ", "İ"]

def letter(r):
    while True:
        code = r.choice([r.randrange(0xA0, 0x2FFF), r.randrange(0x10000, 0x1FFFF), r.randrange(0xE000, 0xFFFF)])
        if unicodedata.ucd_3_2_0.category(chr(code)) not in ("Cn", "Cs") and unicodedata.category(chr(code)) != "Cn":
            return chr(code)

def random_text(r):
    pools = [lambda: chr(r.randrange(32, 127)), lambda: r.choice(" \n\t\r  "), lambda: chr(r.randrange(0x4E00, 0x9FA5)),
             lambda: letter(r), lambda: r.choice(WORDS)]
    weights = [r.random() for _ in pools]
    return "".join(r.choices(pools, weights)[0]() for _ in range(r.randrange(1, 40)))

TEXTS = [
    "", " ", "  leading and trailing  ", "\n\n\n", "tabs\tand\r\nwindows lines\r\n", "don't DON'T we've", "3.14 ½ ² ٣٤",
    "你好，世界！今天天气怎么样？", "中文和English混合2024年", "Привет, мир! Ёлка", "שלום عالم", "a" * 99, "a" * 100, "a" * 101, "e\u0301" * 60,
    "👩‍👩‍👧‍👦🇨🇳 👍🏽", "e\u0301 é a\u0328\u0301 \u1e9b\u0323", "\u202eright\u202c to left", "nul\0nul", "\ufffd \ufeffmark \u00a0\u3000\u0085\u2028",
    "[CLS] said [SEP] and [MASK][PAD] [cls] [ SEP ]", "##ing a##b ## #", "ΣΑΣ İI ẞ", "x+y=z <a|b> $1 `q` ~^", "ﬁne Ａ１ ｔｈｅ", "a\u200bb\u00adc",
    "unbelievably antidisestablishmentarianism", "𠀀𪜀𫝀\U0002b820\U0002b920", "!?" * 20,
]
r = random.Random(5)
TEXTS += [random_text(r) for _ in range(200)]

tokenizers = {}
for name, lower in [("uncased", True), ("cased", False)]:
    t = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    t.normalizer = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=lower)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    t.train_from_iterator(CORPUS, WordPieceTrainer(vocab_size=900, special_tokens=special, show_progress=False))
    cls, sep = t.token_to_id("[CLS]"), t.token_to_id("[SEP]")
    t.post_processor = (
        processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", cls), ("[SEP]", sep)])
        if lower else processors.BertProcessing(("[SEP]", sep), ("[CLS]", cls)))
    t.decoder = decoders.WordPiece()
    tokenizers[name] = {"json": json.loads(t.to_str()), "ids": [t.encode(text).ids for text in TEXTS]}
json.dump({"texts": TEXTS, "tokenizers": tokenizers}, sys.stdout, ensure_ascii=True, separators=(",", ":"))
