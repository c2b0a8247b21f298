"""What the reference implementations say, for vocabulary.test.ts: small tokenizers of every kind, trained here, and
their ids for hard texts.

    pip install tokenizers==0.23.3 sentencepiece==0.2.3 protobuf
    python reference.fixture.py ../../../README.md > reference.fixture.json

The random texts hold letters of Unicode 3.2 only: the reference's tables of letters are of several ages.
"""
import base64, io, json, random, sys, tempfile, unicodedata
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders as D, models as M, normalizers as N, pre_tokenizers as P
from tokenizers.trainers import BpeTrainer

OTHER_WORDS = ["你好，世界！今天天气怎么样？", "日本語のテキスト", "Привет, мир! Ёлка", "naïve café ñ é e\u0301", "ﬁnd ① ²"]
CORPUS = open(sys.argv[1]).read().splitlines()[:400] + OTHER_WORDS * 5
WORDS = ["the", "ing", " of", "▁", "<0x41>", "'s", "é", "e\u0301", "def", "<<", "ﬁ", "中", "<tool>", "\n\n"]

def letter(r):
    while True:
        code = r.choice([r.randrange(0xA0, 0x2FFF), r.randrange(0x10000, 0x1FFFF), r.randrange(0xE000, 0xFFFF)])
        if unicodedata.ucd_3_2_0.category(chr(code)) not in ("Cn", "Cs"):
            return chr(code)

def random_text(r):
    pools = [lambda: chr(r.randrange(32, 127)), lambda: r.choice(" \n\t\r  "), lambda: chr(r.randrange(0x4E00, 0x9FA5)),
             lambda: letter(r), lambda: r.choice(WORDS)]
    weights = [r.random() for _ in pools]
    return "".join(r.choices(pools, weights)[0]() for _ in range(r.randrange(1, 40)))

TEXTS = [
    "", " ", "  leading and trailing  ", "\n\n\n", "tabs\tand\r\nwindows lines\r\n", "don't DON'T we've I'LL they'd",
    "1234567890 3.14 ½ ² ٣٤", "你好，世界！今天天气怎么样？", "中文和English混合2024年", "Привет, мир! Ёлка", "שלום عالم",
    "👩‍👩‍👧‍👦🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f🇨🇳🇺🇸 👍🏽", "e\u0301 é a\u0328\u0301 \u1e9b\u0323", "\u202eright\u202c to left", "nul\0nul",
    "\ufffd \ufeffmark \u00a0\u3000\u0085\u2028", "▁already▁meta ▁▁", " <0x0A> <0xE4>", "def f(x):\n\treturn x ** 2  # note\n",
    "<h1>Title</h1>", "a" * 70, " " * 70, "!?" * 20, "ꙮ𝔘𝔫𝔦𝔠𝔬𝔡𝔢𒀀", "ΣΑΣ İI", "ﬁne ﬁ Ａ１ ｔｈｅ", "a <tool> b<tool>", "the theme othe the.",
    "def  f: undef def_ def", "<<<<< < <<", "中the文the", " \u0085\u00a0<tool> x", "x  y   z    ",
]

def sentence_piece(kind, **options):
    model, proto = io.BytesIO(), sentencepiece_model_pb2.ModelProto()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(CORPUS), model_writer=model, model_type=kind,
        hard_vocab_limit=False, character_coverage=0.98, minloglevel=2, **options)
    proto.ParseFromString(model.getvalue())
    return proto, model.getvalue()

def make_tokenizers():
    made = {}
    special = [AddedToken("<s>", special=True, normalized=False), AddedToken("</s>", special=True, normalized=False)]
    def unigram(name, proto, unknown_bytes, normalizer, pre, decoder):
        pieces = [(piece.piece, piece.score) for piece in proto.pieces]
        made[name] = Tokenizer(M.Unigram(pieces, unk_id=0, byte_fallback=unknown_bytes))
        made[name].normalizer, made[name].pre_tokenizer, made[name].decoder = normalizer, pre, decoder
        made[name].add_special_tokens(special)
    def bpe(name, options, normalizer, pre, decoder, model={}, added=[]):
        made[name] = Tokenizer(M.BPE(**model))
        made[name].normalizer, made[name].pre_tokenizer, made[name].decoder = normalizer, pre, decoder
        made[name].train_from_iterator(CORPUS, BpeTrainer(show_progress=False, vocab_size=420, **options))
        for token in added:
            made[name].add_tokens([token])
    # A normalization of a few rules, because the usual one alone is 250 kB.
    rules = tempfile.NamedTemporaryFile("w", suffix=".tsv")
    for before, after in [("ﬁ", "fi"), ("Ａ", "A"), ("１", "1"), ("①", "1"), ("²", "2"), ("½", "1/2"), ("\u3000", " "),
                          ("e\u0301", "é"), ("\u00a0", " "), ("\t", " "), ("\ufeff", ""), ("Ё", "Е"), ("İ", "I")]:
        rules.write(" ".join(f"{ord(c):X}" for c in before) + "\t" + " ".join(f"{ord(c):X}" for c in after) + "\n")
    rules.flush()
    compiled, _ = sentence_piece("unigram", vocab_size=400, normalization_rule_tsv=rules.name)
    charsmap = N.Precompiled(compiled.normalizer_spec.precompiled_charsmap)
    always, never = P.Metaspace("▁", "always"), P.Metaspace("▁", "never", split=False)
    unigram("unigram, compiled normalization", compiled, False, N.Sequence([charsmap, N.Replace(Regex(" {2,}"), " ")]),
            P.Sequence([P.WhitespaceSplit(), always]), D.Metaspace("▁", "always"))
    plain, _ = sentence_piece("unigram", vocab_size=600, byte_fallback=True, normalization_rule_name="identity")
    unigram("unigram, bytes", plain, True, N.Replace(" ", "▁"), never, D.Sequence([D.Replace("▁", " "), D.ByteFallback(), D.Fuse()]))
    letters, end = P.ByteLevel.alphabet(), ["<|endoftext|>"]
    byte_level = dict(initial_alphabet=letters, special_tokens=end)
    bpe("byte-level, single digits", byte_level, None, P.Sequence([P.Digits(individual_digits=True), P.ByteLevel(add_prefix_space=False)]), D.ByteLevel())
    bpe("byte-level, prefix space", byte_level, None, P.ByteLevel(add_prefix_space=True), D.ByteLevel())
    bpe("byte-level, added words", byte_level, N.NFKC(), P.ByteLevel(add_prefix_space=False), D.ByteLevel(), {}, [
        AddedToken("<tool>", lstrip=True, normalized=False), AddedToken("the", single_word=True, normalized=True),
        AddedToken("def", single_word=True, rstrip=True, normalized=False), AddedToken("<<", normalized=False), AddedToken("<<<", normalized=False)])
    bpe("unknown letters, one token for many", dict(special_tokens=["<unk>"]), N.Lowercase(), P.WhitespaceSplit(), D.Fuse(), dict(unk_token="<unk>", fuse_unk=True))
    bpe("unknown letters, a token for each", dict(special_tokens=["<unk>"]), N.Sequence([N.NFD(), N.StripAccents(), N.Strip()]),
        P.Sequence([P.Punctuation("contiguous"), P.Digits(False), P.Split(Regex(r"\s+"), "merged_with_next"), P.Split("e", "merged_with_previous")]),
        D.Fuse(), dict(unk_token="<unk>", fuse_unk=False))
    spelled = dict(special_tokens=["<unk>", "<s>"] + ["<0x%02X>" % i for i in range(256)])
    for scheme in ("first", "always"):
        bpe(f"SentencePiece BPE, prefix {scheme}", spelled, None, P.Metaspace("▁", scheme),
            D.Sequence([D.Replace("▁", " "), D.ByteFallback(), D.Fuse(), D.Strip(" ", 1, 0)]), dict(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    bpe("SentencePiece BPE, prefix by the normalizer", spelled, N.Sequence([N.Prepend("▁"), N.Replace(" ", "▁")]), None,
        D.Sequence([D.Replace("▁", " "), D.ByteFallback(), D.Fuse(), D.Strip(" ", 1, 0)]), dict(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    return made

def main():
    r = random.Random(7)
    texts = TEXTS + [random_text(r) for _ in range(60)]
    tokenizers = {}
    for name, tokenizer in make_tokenizers().items():
        body = json.loads(tokenizer.to_str())
        # The trainer makes control tokens of them.
        body["added_tokens"] = [token for token in body["added_tokens"] if not token["content"].startswith("<0x")]
        tokenizer = Tokenizer.from_str(json.dumps(body))
        ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        decoded = [tokenizer.decode(each, skip_special_tokens=False) for each in ids]
        # Most texts come back as they were.
        tokenizers[name] = {"json": body, "ids": ids, "decoded": [None if d == t else d for d, t in zip(decoded, texts)]}
    about = "Made by reference.fixture.py beside this file."
    json.dump({"about": about, "texts": texts, "tokenizers": tokenizers}, sys.stdout, ensure_ascii=True, separators=(",", ":"))

main()
