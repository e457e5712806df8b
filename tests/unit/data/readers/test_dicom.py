"""DICOM: what is shown, what is never shown, and the picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tuneloop.data.readers import ReadOptions
from tuneloop.data.readers.dicom import SHOWN, read, window
from tuneloop.data.rows import RawFile

pydicom = pytest.importorskip("pydicom", reason="needs the dicom extra", exc_type=ImportError)
Image = pytest.importorskip("PIL.Image", reason="needs the dicom extra", exc_type=ImportError)

E_1_1 = Path(__file__).with_name("ps3_15_table_e_1_1.txt")


def identity_tags() -> set[int]:
    lines = E_1_1.read_text(encoding="ascii").splitlines()
    return {int(tag, 16) for line in lines if not line.startswith("#") for tag in line.split()}


def header(**more: Any) -> Any:
    """A small CT picture, 2 x 2, signed 16 bit, values 0 1 2 3."""
    made = pydicom.Dataset()
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    fields = {
        "Modality": "CT", "Rows": 2, "Columns": 2, "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15,
        "SamplesPerPixel": 1, "PixelRepresentation": 1, "PhotometricInterpretation": "MONOCHROME2",
        "PixelData": np.arange(4, dtype="<i2").tobytes(), **more,
    }  # fmt: skip
    for keyword, value in fields.items():
        setattr(made, keyword, value)
    return made


def opened(made: Any, folder: Path, media: bool = True) -> RawFile:
    path = folder / "a.dcm"
    made.save_as(path, enforce_file_format=True)
    return read(path, "a.dcm", ReadOptions(media_folder=folder / "media" if media else None))


def pixels(file: RawFile, folder: Path) -> list[Any]:
    return [np.asarray(Image.open(folder / row.fields["image"])).tolist() for row in file.rows]


def test_no_attribute_of_the_confidentiality_profile_is_shown() -> None:
    shown = {pydicom.datadict.tag_for_keyword(keyword) for keyword in SHOWN}
    assert None not in shown
    assert len(identity_tags()) > 600
    assert not {f"{tag:08x}" for tag in shown & identity_tags()}


def test_values_of_identity_are_neither_in_the_text_nor_in_the_fields(tmp_path: Path) -> None:
    secrets = {
        "PatientName": "Doe^Jane", "PatientID": "MRN0042", "PatientBirthDate": "19700203", "PatientSex": "F",
        "PatientAge": "054Y", "PatientAddress": "Elm Street 7", "OtherPatientIDs": "ALT77", "AccessionNumber": "ACC9",
        "InstitutionName": "Mercy Hospital", "ReferringPhysicianName": "House^Gregory", "OperatorsName": "Op^One",
        "StudyDate": "20240305", "StudyTime": "101112", "StudyDescription": "Follow-up of Jane", "StudyID": "ST5",
        "SeriesDescription": "head of Jane", "ProtocolName": "jane proto", "StationName": "ROOM3",
        "DeviceSerialNumber": "SN123", "ImageComments": "Jane moved", "StudyInstanceUID": "1.2.840.99.5",
        "SOPInstanceUID": "1.2.840.99.6", "MilitaryRank": "Major", "Occupation": "pilot",
    }  # fmt: skip
    made = header(**secrets)
    block = made.private_block(0x0011, "ACME", create=True)
    block.add_new(0x01, "LO", "private Jane")
    (row,) = opened(made, tmp_path).rows
    said = json.dumps([row.raw, dict(row.fields), row.origin("a.dcm")])
    assert "Modality: CT" in said
    assert not [value for value in (*secrets.values(), "Jane", "Doe") if len(value) > 1 and value in said]


def test_a_window_maps_grey_values_as_the_standard_says() -> None:
    # PS3.3 C.11.2.1.2.1: with centre 2048, width 4096, x <= 0 is black, x > 4095 white, and between
    # ((x - (c - 0.5)) / (w - 1) + 0.5) * 255: 0 -> 0, 2047 -> 127.47, 4095 -> 255.
    assert window(np.array([-5.0, 0.0, 2047.0, 4095.0, 9000.0]), 2048, 4096).tolist() == [0, 0, 127, 255, 255]


def test_linear_exact_and_sigmoid_windows() -> None:
    # C.11.2.1.3.2: (x - c) / w + 0.5; C.11.2.1.3.1: 1 / (1 + exp(-4 (x - c) / w)), at the centre 127.5 rounds to even
    assert window(np.array([5.0, 10.0, 12.5, 15.0]), 10, 10, "LINEAR_EXACT").tolist() == [0, 128, 191, 255]
    assert window(np.array([-1e9, 10.0, 12.5]), 10, 10, "SIGMOID").tolist() == [0, 128, 186]


def test_without_a_window_the_whole_range_is_shown(tmp_path: Path) -> None:
    assert pixels(opened(header(), tmp_path), tmp_path) == [[[0, 85], [170, 255]]]


def test_rescale_comes_before_the_window(tmp_path: Path) -> None:
    made = header(RescaleSlope=10, RescaleIntercept=-10, WindowCenter=5.5, WindowWidth=11)  # -10 0 10 20
    assert pixels(opened(made, tmp_path), tmp_path) == [[[0, 0], [255, 255]]]


def test_the_first_of_several_windows_counts(tmp_path: Path) -> None:
    made = header(WindowCenter=[2, 100], WindowWidth=[4, 10])
    assert pixels(opened(made, tmp_path), tmp_path) == [[[0, 85], [170, 255]]]


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    made = header(PhotometricInterpretation="MONOCHROME1")
    assert pixels(opened(made, tmp_path), tmp_path) == [[[255, 170], [85, 0]]]


def test_a_voi_table_is_applied(tmp_path: Path) -> None:
    table = pydicom.Dataset()
    table.LUTDescriptor, table.LUTData = [4, 0, 8], [255, 10, 20, 0]
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    made = header(PixelRepresentation=0, VOILUTSequence=[table])
    assert pixels(opened(made, tmp_path), tmp_path) == [[[255, 10], [20, 0]]]


def test_each_frame_is_a_row_with_an_image_of_its_own(tmp_path: Path) -> None:
    made = header(NumberOfFrames=2, PixelData=np.array([0, 1, 2, 3, 3, 2, 1, 0], dtype="<i2").tobytes())
    file = opened(made, tmp_path)
    assert [row.origin("a.dcm") for row in file.head] == ["a.dcm:frame 1", "a.dcm:frame 2"]
    assert len({row.fields["image"] for row in file.head}) == 2


def test_the_name_of_an_image_depends_on_its_pixels_only(tmp_path: Path) -> None:
    names = []
    for who in ("one", "two"):
        (tmp_path / who).mkdir()
        (row,) = opened(header(PatientName=who), tmp_path / who).rows
        names.append(row.fields["image"])
    assert names[0] == names[1]


@pytest.mark.parametrize("keyword", ["BurnedInAnnotation", "RecognizableVisualFeatures"])
def test_a_picture_that_shows_who_it_is_of_is_withheld(keyword: str, tmp_path: Path) -> None:
    file = opened(header(**{keyword: "YES"}), tmp_path)
    (row,) = file.rows
    assert row.fields["image_withheld"]
    assert "image" not in row.fields
    assert not (tmp_path / "media").exists()
    assert file.facts["withheld"] == 1


def test_without_a_media_folder_the_header_alone_is_read(tmp_path: Path) -> None:
    (row,) = opened(header(), tmp_path, media=False).rows
    assert row.raw.startswith("Modality: CT")
    assert "image" not in row.fields


def test_cut_off_pixels_are_a_row_with_its_reason(tmp_path: Path) -> None:
    (row,) = opened(header(PixelData=b"\x00\x00"), tmp_path).rows
    assert row.problem is not None
    assert row.problem[1].startswith("damaged: the pixels cannot be decoded")


@pytest.mark.parametrize("data", [b"", b"hello", bytes(200)], ids=["empty", "text", "zeros"])
def test_another_file_is_a_row_with_its_reason(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(data)
    (row,) = read(path, "a.dcm", ReadOptions()).rows
    assert row.problem is not None
    assert row.problem[1].startswith("damaged: not a DICOM file")
