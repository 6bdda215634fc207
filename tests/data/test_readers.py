"""Files of every kind and encoding, and what is broken in them."""

import codecs
import gzip
import json
import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chatwright.core.types import ChatwrightError
from chatwright.data.encodings import legacy_encoding
from chatwright.data.readers import BadRow, RawRow, files_of, is_hub_name, read_file

ROWS = [{"prompt": "你好", "n": 1}, {"prompt": 'say "hi",\nplease', "n": 2}]


def values(path):
    return [row.value for row in read_file(path)]


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json", "A.JSONL"])
@pytest.mark.parametrize("packed", [False, True])
def test_lines_of_json(tmp_path, name, packed):
    path = tmp_path / (name + (".gz" if packed else ""))
    data = lines(ROWS).encode()
    path.write_bytes(gzip.compress(data) if packed else data)
    assert values(path) == ROWS
    assert [row.where for row in read_file(path)] == [f"{path}:1", f"{path}:2"]


@pytest.mark.parametrize("text", [json.dumps(ROWS), json.dumps(ROWS, indent=2), json.dumps({"data": ROWS})])
def test_json_in_one_piece(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    assert values(tmp_path / "a.json") == ROWS


def test_items_of_a_json_list_know_their_lines_and_a_fault_keeps_those_before_it(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[\n {"a": 1},\n {"a": 2},\n {"a": }\n]')
    rows = list(read_file(path))
    assert rows[:2] == [RawRow({"a": 1}, f"{path}:2"), RawRow({"a": 2}, f"{path}:3")]
    assert rows[2].where == f"{path}:4" and "nothing after" in rows[2].detail


def test_csv_with_quotes_breaks_and_a_wrong_number_of_cells(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('prompt,answer\n"a, ""b""\nc",d\ntoo,many,cells\n\ne,f\n')
    rows = list(read_file(path))
    assert [r.value for r in rows if isinstance(r, RawRow)] == [
        {"prompt": 'a, "b"\nc', "answer": "d"},
        {"prompt": "e", "answer": "f"},
    ]
    assert [(r.where, r.reason) for r in rows if isinstance(r, BadRow)] == [
        (f"{path}:4", "wrong number of columns")
    ]
    assert rows[-1].where == f"{path}:6"


@pytest.mark.parametrize("mark", [",", "\t", ";", "|"])
def test_csv_finds_its_delimiter(tmp_path, mark):
    (tmp_path / "a.csv").write_text(
        f"prompt{mark}answer\nx, y{mark}z\n" if mark != "," else "prompt,answer\nx,z\n"
    )
    assert values(tmp_path / "a.csv")[0]["answer"] == "z"


@pytest.mark.parametrize("packed", [False, True])
def test_parquet(tmp_path, packed):
    plain, path = tmp_path / "a.parquet", tmp_path / "b.parquet.gz"
    pq.write_table(pa.Table.from_pylist(ROWS), plain)
    path.write_bytes(gzip.compress(plain.read_bytes()))
    assert values(path if packed else plain) == ROWS


def test_a_damaged_parquet_or_gz_file_is_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\n' * 99)[:-12])
    with pytest.raises(ChatwrightError, match=r"a\.parquet: not a Parquet file"):
        values(tmp_path / "a.parquet")
    with pytest.raises(ChatwrightError, match=r"a\.jsonl\.gz: cannot be read"):
        values(tmp_path / "a.jsonl.gz")


def test_text_files_are_parted_at_the_end_of_a_document(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n<|endoftext|>\nthree\n<|endoftext|>\n")
    assert list(read_file(path)) == [
        RawRow({"text": "one\ntwo"}, f"{path}:1"),
        RawRow({"text": "three"}, f"{path}:4"),
    ]


SENTENCES = {
    "gbk": "问题,回答\n请问怎么退货？,七天之内都可以退货。\n",
    "gb18030": "问题,回答\n请问怎么退货？,七天之内都可以退货。\n",
    "big5": "問題,回答\n請問如何退貨？,七天之內都可以退貨。\n",
    "utf-16": "問題,回答\n请问怎么退货？,七天之内都可以退货。\n",
    "utf-8-sig": "問題,回答\n请问怎么退货？,七天之内都可以退货。\n",
    "shift_jis": "質問,答え\nありがとうございます、元気ですか,はい、元気です\n",
    "cp1252": "question,réponse\nOù est le café à côté?,Derrière l’hôtel, déjà\n".replace(
        "hôtel, ", "hôtel "
    ),
}


@pytest.mark.parametrize("encoding", SENTENCES)
def test_other_encodings_are_read_and_said(tmp_path, encoding, caplog):
    text = SENTENCES[encoding]
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    with caplog.at_level(logging.INFO, "chatwright"):
        row = values(tmp_path / "a.csv")[0]
    header, cells = (line.split(",") for line in text.splitlines())
    assert row == dict(zip(header, cells, strict=True))
    assert ("not UTF-8" in caplog.text) == (encoding != "utf-8-sig")


@pytest.mark.parametrize("text", ["退款", "訂單", "你好，请问怎么退货？", "繁體字也有"])
def test_a_few_chinese_letters_are_enough(text):
    assert text.encode("gb18030").decode(legacy_encoding(text.encode("gb18030"))) == text
    if text != "你好，请问怎么退货？":
        assert text.encode("big5", "ignore").decode(legacy_encoding(text.encode("big5", "ignore"))) in text


def test_one_damaged_line_of_a_utf8_file_is_one_bad_row(tmp_path):
    path = tmp_path / "a.jsonl"
    good = lines([ROWS[0]]).encode()
    path.write_bytes(codecs.BOM_UTF8 + good + '{"prompt": "坏"}\n'.encode("gbk") + good)
    rows = list(read_file(path))
    assert [type(row).__name__ for row in rows] == ["RawRow", "BadRow", "RawRow"]
    assert rows[1].where == f"{path}:2" and rows[1].reason == "wrong encoding"


def test_broken_json_lines_are_reported_with_their_place(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{"a": \n\n{"a": 2}')
    rows = list(read_file(path))
    assert [type(row).__name__ for row in rows] == ["RawRow", "BadRow", "RawRow"]
    assert (rows[1].where, rows[1].reason, rows[2].where) == (f"{path}:2", "not JSON", f"{path}:4")


def test_a_folder_is_its_data_files_in_order(tmp_path, caplog):
    (tmp_path / "sub").mkdir()
    for name in ("b.jsonl", "sub/a.csv.gz", "README.md", ".hidden.jsonl", "picture.png", "notes.md"):
        (tmp_path / name).write_text("")
    with caplog.at_level(logging.INFO, "chatwright"):
        found = [str(p.relative_to(tmp_path)) for p in files_of(tmp_path)]
    assert found == ["b.jsonl", "notes.md", "sub/a.csv.gz"]
    assert "README.md" in caplog.text and "picture.png" in caplog.text


def test_what_is_not_there_is_named_with_what_was_meant(tmp_path):
    (tmp_path / "demos.jsonl").write_text("")
    with pytest.raises(ChatwrightError, match=r"did you mean .*demos\.jsonl"):
        files_of(tmp_path / "demo.jsonl")
    with pytest.raises(ChatwrightError, match="no folder"):
        files_of(tmp_path / "nowhere" / "demo.jsonl")
    (tmp_path / "a.xlsx").write_text("")
    with pytest.raises(ChatwrightError, match="not a kind of file"):
        files_of(tmp_path / "a.xlsx")


def test_names_of_the_hub():
    assert (
        is_hub_name("tatsu-lab/alpaca") and not is_hub_name("demos") and is_hub_name("tatsu-lab/alpaca@test")
    )
    assert not any(map(is_hub_name, ["data/demos.jsonl", "./x", "/x/y", "a/b/c", "demos.csv.gz"]))


@pytest.mark.parametrize("name", ["a.txt", "a.json", "a.jsonl"])
def test_a_file_that_is_no_text_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(codecs.BOM_UTF16_LE + b"\x00\xd8" * 3 + b"a")
    with pytest.raises(ChatwrightError, match=rf"{name}.* no text in utf-16"):
        values(tmp_path / name)
