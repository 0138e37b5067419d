"""Writes small sets with the tools that people make them with: hugging-face*.parquet with pyarrow, under the schema and the
metadata that `datasets` writes, and webdataset.tar with Python's tarfile.

Image i of 8, or of 4 for validation, is filled with 30 i and has label i % 3. All are committed; scripts/reference runs this again.
"""

import io
import json
import tarfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
from PIL import Image

FOLDER = Path(__file__).parent
COUNT = 8


def png(number):
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (30 * number,) * 3).save(file, "PNG")
    return file.getvalue()


def parquet(name, count):
    features = {
        "image": {"_type": "Image"},
        "label": {"names": ["cat", "dog", "emu"], "_type": "ClassLabel"},
    }
    schema = pyarrow.schema(
        [
            pyarrow.field("image", pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})),
            pyarrow.field("label", pyarrow.int64()),
        ],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    rows = [
        {"image": {"bytes": png(number), "path": f"{number}.png"}, "label": number % 3} for number in range(count)
    ]
    table = pyarrow.Table.from_pylist(rows, schema=schema)
    with pyarrow.parquet.ParquetWriter(
        FOLDER / name, schema, use_content_defined_chunking=True, write_page_index=True
    ) as writer:
        writer.write_table(table, row_group_size=3)


def webdataset():
    with tarfile.open(FOLDER / "webdataset.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for number in range(COUNT):
            for extension, content in (
                ("cls", str(number % 3).encode()),
                ("png", png(number)),
                ("txt", "ein Bild für die Übung".encode()),
            ):
                # A name that does not fit ASCII takes an extended header.
                member = tarfile.TarInfo(f"./übung/{number:06}.{extension}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


if __name__ == "__main__":
    parquet("hugging-face.parquet", COUNT)
    parquet("hugging-face-validation.parquet", COUNT // 2)
    webdataset()
