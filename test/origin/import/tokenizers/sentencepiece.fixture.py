"""SentencePiece's token ids, for sentence-piece.test.ts: two small models trained here, in the form that GGUF stores.

    pip install sentencepiece==0.2.3 protobuf
    python sentencepiece.fixture.py ../../../../README.md > sentencepiece.fixture.json
"""
import io, json, sys
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

OTHER_WORDS = ["你好，世界！今天天气怎么样？", "日本語のテキスト", "Привет, мир! Ёлка", "naïve café ñ é", "x  =  1"]
CORPUS = open(sys.argv[1]).read().splitlines()[:400] + OTHER_WORDS * 5
TEXTS = json.load(open("../../tokenize/reference.fixture.json"))["texts"]

def train(**options):
    model, proto = io.BytesIO(), sentencepiece_model_pb2.ModelProto()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(CORPUS), model_writer=model, character_coverage=0.98,
        hard_vocab_limit=False, byte_fallback=True, minloglevel=2, normalization_rule_name="identity", **options)
    proto.ParseFromString(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return {
        "tokens": [piece.piece for piece in proto.pieces],
        "scores": [piece.score for piece in proto.pieces],
        "types": [piece.type for piece in proto.pieces],
        "ids": [processor.encode(text) for text in TEXTS],
    }

models = {
    "llama": train(model_type="bpe", vocab_size=560, remove_extra_whitespaces=False),
    "t5": train(model_type="unigram", vocab_size=560, remove_extra_whitespaces=True),
}
about = "Made by sentencepiece.fixture.py beside this file; the texts are reference.fixture.json's."
json.dump({"about": about, "models": models}, sys.stdout, separators=(",", ":"))
