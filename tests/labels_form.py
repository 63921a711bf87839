"""Made-up label files in the form of every published dataset, five rows each, and the clips that they must give."""

import json
from pathlib import Path

from scipy.io import savemat

MOS = (10.0, 25.5, 40.0, 70.25, 90.0)
ACR = (1.5, 2.25, 3.0, 3.5, 4.6)


def fast(*rows: tuple[str, float]) -> str:
    """FAST-VQA's list: path, duration, frame rate, MOS."""
    return "".join(f"{name}, 10.0, 29.97, {mos}\n" for name, mos in rows)


def table(header: str, *rows: str) -> str:
    return "\n".join([header, *rows]) + "\n"


def annotations(*rows: tuple[str, float]) -> str:
    """VQAThinker's test files."""
    return json.dumps(
        {"annotations": [{"image_id": n, "ann_type": "score", "score": str(m)} for n, m in rows]}, indent=4
    )


def records(*rows: dict) -> str:
    return json.dumps(list(rows), indent=1)


def vqathinker(folder: str, file: str, names: list[str], mos: tuple[float, ...] = MOS) -> dict[str, str]:
    return {f"{folder}/{file}": annotations(*zip(names, mos))}


def _nflx(name: str, mos: float, events: str) -> str:
    return f'{name}.mp4,{name.split("_")[0]},{mos},30.0,300,"{events}"'


LSVQ = ["yfcc-batch1/722.mp4", "yfcc-batch1/724.mp4", "ia-batch2/a b.mp4", "ia-batch2/c_d.e.mp4", "backup/7.mp4"]
VQC = [f"A00{i}.mp4" for i in range(1, 6)]
YT = [f"Sports_2160P-4e9{i}_crf_10_ss_00_t_20.0.mp4" for i in range(5)]
GAMES = [f"Age-00{i}.mp4" for i in range(1, 6)]
CG = [f"Bejeweled3_30s_1280x720_60_{k}000_h264_nvenc.mp4" for k in range(1, 6)]
HFR = [f"{k}Runner_crf_0_24fps" for k in range(1, 6)]
IVC = [f"HEVC_0{k}_960x540_1.mp4" for k in range(1, 6)]
VDPVE = [f"A002{k}_01.mp4" for k in range(5)]
MAX = [f"000{k}.mp4" for k in range(5)]
LOG = "streaming_log,rebuffering_duration,chunk_duration,framerate\n"
CHUNKS = "".join(f"{k}.csv,{(0.0, 2.0)[k % 2]},4.0,25\n{k}.csv,{(0.0, 1.0)[k > 2]},4.0,30\n" for k in range(1, 6))


def _sqoe(folder: str) -> dict[str, str]:
    rows = (f"{k}.csv,{m},c{k % 2},H264,hdtv" for k, m in enumerate(MOS, 1))
    head = "streaming_log,mos,content,encoding_profile,device"
    return {f"{folder}/data.csv": table(head, *rows), f"{folder}/streaming_logs_all.csv": LOG + CHUNKS}


def _feedback(first: int, count: int) -> str:
    names = (
        "visual quality",
        "temporal consistency",
        "dynamic degree",
        "text-to-video alignment",
        "factual consistency",
    )
    rows = [{"id": f"p{k}", "images": [], "text prompt": "a, b", **dict.fromkeys(names, 2), "visual quality": 1 + k % 4}
            for k in range(first, first + count)]  # fmt: skip
    return records(*rows)


FORMS: dict[str, dict[str, str]] = {
    "koniq_10k": {
        "KonIQ-10k/training_labels.txt": fast(("1.jpg", 10.0), ("2.jpg", 20.0), ("3.jpg", 80.0)),
        "KonIQ-10k/validation_labels.txt": fast(("4.jpg", 50.0)),
        "KonIQ-10k/test_labels.txt": fast(("5.jpg", 60.0)),
    },
    "kadid_10k": {
        "KADID-10k/kadid10k_all.txt": "".join(
            f"images/I0{k}_{t}_0{k}.png\t{m}\t0.8\n"
            for k, (t, m) in enumerate(zip(("01", "04", "10", "21", "25"), ACR), 1)
        )
    },
    "tid2013": {"TID2013/mos_with_names.txt": "".join(f"{m} I0{k}_01_{k}.bmp\n" for k, m in enumerate(ACR, 1))},
    "bid": {
        "BID/DatabaseGrades.csv": table(
            "Image Number,Average Subjective Grade,std", *(f"{k},{m},0.5" for k, m in enumerate(ACR, 1))
        )
    },
    "agiqa_3k": {
        "AGIQA-3K/data.csv": table(
            "name,prompt,mos_quality,mos_align", *(f'a_{k}.jpg,"a cat, red",{m},1.0' for k, m in enumerate(ACR))
        )
    },
    "live_qualcomm": {
        "LIVE-Qualcomm/mp4labels.txt": fast(
            *(
                (f"{f}/10{k}_Scene_Phone_V{k}.mp4", m)
                for k, (f, m) in enumerate(zip(("Focus", "Stabilization", "Color", "Stabilization", "Artifacts"), MOS))
            )
        )
    },
    "lsvq": {
        "LSVQ/LSVQ_train_labels.txt": fast(*zip(LSVQ[:3], MOS)),
        "LSVQ/labels_test.txt": fast((LSVQ[3], 70.25)),
        "LSVQ/labels_1080p.txt": fast((LSVQ[4], 90.0)),
    },
    "lsvq_train": {"LSVQ/LSVQ_train_labels.txt": fast(*zip(LSVQ, MOS))},
    "lsvq_test": {"LSVQ/labels_test.txt": fast(*zip(LSVQ, MOS))},
    "lsvq_test_7220": {
        "LSVQ/LSVQ_whole_test.csv": table(
            "name,p1,height,mos", *(f'{n[:-4]},"[1, 2, 3]",720,{m}' for n, m in zip(LSVQ, MOS))
        )
    },
    "lsvq_1080p": {"LSVQ/labels_1080p.txt": fast(*zip(LSVQ, MOS))},
    "lsvq_1080p_3561": {
        "LSVQ/LSVQ_whole_test_1080p.csv": table(
            "name,p1,height,mos", *(f'{n[:-4]},"[1, 2]",1080,{m}' for n, m in zip(LSVQ, MOS))
        )
    },
    "lsvq_1080p_2575": {"LSVQ/LSVQ(test_1080p).json": records(*({"img_path": n, "mos": m} for n, m in zip(LSVQ, MOS)))},
    "live_vqc": {"LIVE-VQC/labels.txt": fast(*((f"Video/{n}", m) for n, m in zip(VQC, MOS)))},
    "live_vqc_88": {"LIVE-VQC/live_VQC.json": records(*({"img_path": n, "mos": m / 100} for n, m in zip(VQC, MOS)))},
    "konvid_1k": {"KoNViD-1k/labels.txt": fast(*((f"KoNViD_1k_videos/{k}.mp4", m) for k, m in enumerate(ACR)))},
    "youtube_ugc_1380": {
        "YouTube-UGC/YOUTUBE_UGC_metadata.csv": table(
            "vid,category,resolution,MOSFull", *(f"Sports_2160P-4e9{k},Sports,2160,{m}" for k, m in enumerate(ACR))
        )
    },
    "youtube_ugc_1147": {"YouTube-UGC/labels.txt": fast(*zip(YT, ACR))},
    "youtube_ugc_1020": vqathinker("YouTube-UGC", "youtube_ugc_total.json", YT, ACR),
    "waterloo_sqoe_1": _sqoe("WaterlooSQoE-I"),
    "waterloo_sqoe_3": _sqoe("WaterlooSQoE-III"),
    "waterloo_sqoe_4": _sqoe("WaterlooSQoE-IV"),
    "live_nflx_2": {
        "LIVE-NFLX-II/live_nflx_ii_derived.csv": table(
            "distorted_mp4_video,content_name,retrospective_zscored_mos,frame_rate,N_total_frames,rebuffer_events_frames",
            *(
                _nflx(f"Air{k}_Buffer_Trace_{k}", m / 50 - 1, "[[30, 60]]" if k % 2 else "[]")
                for k, m in enumerate(MOS)
            ),
        )
    },
    "videofeedback": {
        "VideoFeedback/train/data_annotated.json": _feedback(0, 4),
        "VideoFeedback/test/data_annotated.json": _feedback(4, 1),
    },
    "cvd2014": {
        "CVD2014/labels.txt": fast(
            *((f"Test{k}/City/Test0{k}_City_D0{k}.avi", m) for k, m in zip(range(1, 6), (-6.5, *MOS[1:])))
        )
    },
    "live_yt_gaming": {
        "LIVE-YT-Gaming/LIVE-YT-Gaming_metadata.csv": table(
            "File,MOS,width", *(f"{n},{m},1280" for n, m in zip(GAMES, MOS))
        )
    },
    "cgvds": {
        "CGVDS/CGVDS_metadata.csv": table(
            "File,MOS,width,Content", *(f"{n},{m},1280,Bejeweled3" for n, m in zip(CG, ACR))
        )
    },
    "live_yt_hfr": {
        "LIVE-YT-HFR/LIVE_HFR_metadata.csv": table("Filename,MOS,width", *(f"{n},{m},3840" for n, m in zip(HFR, MOS)))
    },
    "waterloo_ivc_4k": vqathinker("Waterloo-IVC-4K", "Waterloo_IVC_4K_total_score.json", IVC),
    "vdpve": {"VDPVE/NTIRE23_labels.txt": fast(*zip(VDPVE, MOS))},
    "t2vqa_db": {"T2VQA-DB/info.txt": "".join(f'{k}.mp4|a cat, "red"|{m}\n' for k, m in enumerate(MOS))},
    "maxwell": {
        "MaxWell/train_labels.txt": fast(*((n, 9.0) for n in MAX[:4])),
        "MaxWell/test_labels.txt": fast((MAX[4], 9.0)),
        "MaxWell/MaxWell_train.csv": table("O,A-1,T-1", *(f"{m},0.5,-0.5" for m in ACR[:4])),
        "MaxWell/MaxWell_val.csv": table("O,A-1,T-1", f"{ACR[4]},0.5,-0.5"),
    },
    "divide_maxwell": {
        "DIVIDE-MaxWell/train_labels.txt": "".join(f"{n}, 1.0, 2.0, {m}\n" for n, m in zip(MAX[:4], ACR)),
        "DIVIDE-MaxWell/val_labels.txt": f"{MAX[4]}, 1.0, 2.0, {ACR[4]}\n",
    },
    "vqathinker_lsvq_train": {
        "LSVQ/LSVQ_labels_train.jsonl": "".join(
            json.dumps(
                {
                    "id": k,
                    "dataset_name": "LSVQ",
                    "image": [n],
                    "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": m / 20}],
                }
            )
            + "\n"
            for k, (n, m) in enumerate(zip(LSVQ, MOS))
        )
    },
    "vqathinker_lsvq_test": vqathinker("LSVQ", "LSVQ_whole_test_ds_score.json", LSVQ),
    "vqathinker_lsvq_1080p": vqathinker("LSVQ", "LSVQ_whole_test_1080p_ds_score.json", LSVQ),
    "vqathinker_konvid_1k": vqathinker(
        "KoNViD-1k", "Konvid-1k_total_ds_score.json", VQC, (25.0, 30.0, 50.0, 60.0, 90.0)
    ),
    "vqathinker_live_vqc": vqathinker("LIVE-VQC", "LIVE-VQC_total_ds_score.json", VQC),
    "vqathinker_live_yt_gaming": vqathinker("LIVE-YT-Gaming", "LIVE-YT-Gaming_total_score.json", GAMES),
    "vqathinker_cgvds": vqathinker("CGVDS", "CGVDS_total_score.json", CG, ACR),
    "vqathinker_live_yt_hfr": vqathinker("LIVE-YT-HFR", "live_hfr_total_score.json", [f"{n}.webm" for n in HFR]),
    "vqathinker_vdpve": vqathinker("VDPVE", "VDPVE_train_score.json", VDPVE),
}
"""Source -> label file -> text."""

FIRST: dict[str, tuple[str, str, str]] = {
    "koniq_10k": ("1.jpg", "KonIQ-10k/1024x768/1.jpg", "KonIQ-10k/1"),
    "kadid_10k": ("images/I01_01_01.png", "KADID-10k/images/I01_01_01.png", "KADID-10k/I01"),
    "tid2013": ("I01_01_1.bmp", "TID2013/distorted_images/I01_01_1.bmp", "TID2013/I01"),
    "bid": ("1", "BID/DatabaseImage0001.JPG", "BID/1"),
    "agiqa_3k": ("a_0.jpg", "AGIQA-3K/images/a_0.jpg", "AGIQA-3K/a_0"),
    "live_qualcomm": ("Focus/100_Scene_Phone_V0.mp4", "LIVE-Qualcomm/Focus/100_Scene_Phone_V0.mp4",
                      "LIVE-Qualcomm/100_Scene_Phone_V0"),
    **dict.fromkeys(
        ("lsvq", "lsvq_train", "lsvq_test", "lsvq_test_7220", "lsvq_1080p", "lsvq_1080p_3561", "lsvq_1080p_2575",
         "vqathinker_lsvq_train", "vqathinker_lsvq_test", "vqathinker_lsvq_1080p"),
        (LSVQ[0], "LSVQ/yfcc-batch1/722.mp4", "LSVQ/yfcc-batch1/722.mp4")),
    "live_vqc": ("Video/A001.mp4", "LIVE-VQC/Video/A001.mp4", "LIVE-VQC/A001"),
    "live_vqc_88": ("A001.mp4", "LIVE-VQC/Video/A001.mp4", "LIVE-VQC/A001"),
    "vqathinker_live_vqc": ("A001.mp4", "LIVE-VQC/Video/A001.mp4", "LIVE-VQC/A001"),
    "konvid_1k": ("KoNViD_1k_videos/0.mp4", "KoNViD-1k/KoNViD_1k_videos/0.mp4", "KoNViD-1k/0"),
    "vqathinker_konvid_1k": ("A001.mp4", "KoNViD-1k/KoNViD_1k_videos/A001.mp4", "KoNViD-1k/A001"),
    "youtube_ugc_1380": ("Sports_2160P-4e90", "YouTube-UGC/original_videos/Sports/2160P/Sports_2160P-4e90.mkv",
                         "YouTube-UGC/Sports_2160P-4e90"),
    "youtube_ugc_1147": (YT[0], f"YouTube-UGC/{YT[0]}", "YouTube-UGC/Sports_2160P-4e90"),
    "youtube_ugc_1020": (YT[0], f"YouTube-UGC/{YT[0]}", "YouTube-UGC/Sports_2160P-4e90"),
    "waterloo_sqoe_1": ("1.csv", "WaterlooSQoE-I/videos/1.mp4", "WaterlooSQoE-I/c1"),
    "waterloo_sqoe_3": ("1.csv", "WaterlooSQoE-III/videos/1.mp4", "WaterlooSQoE-III/c1"),
    "waterloo_sqoe_4": ("1.csv", "WaterlooSQoE-IV/videos/1.mp4", "WaterlooSQoE-IV/c1"),
    "live_nflx_2": ("Air0_Buffer_Trace_0.mp4", "LIVE-NFLX-II/assets_mp4_individual/Air0_Buffer_Trace_0.mp4",
                    "LIVE-NFLX-II/Air0"),
    "videofeedback": ("p0", "VideoFeedback/videos/p0.mp4", "VideoFeedback/p0"),
    "cvd2014": ("Test1/City/Test01_City_D01.avi", "CVD2014/Test1/City/Test01_City_D01.avi", "CVD2014/Test01_City"),
    "live_yt_gaming": (GAMES[0], f"LIVE-YT-Gaming/{GAMES[0]}", "LIVE-YT-Gaming/Age-001"),
    "vqathinker_live_yt_gaming": (GAMES[0], f"LIVE-YT-Gaming/{GAMES[0]}", "LIVE-YT-Gaming/Age-001"),
    "cgvds": (CG[0], f"CGVDS/{CG[0]}", "CGVDS/Bejeweled3"),
    "vqathinker_cgvds": (CG[0], f"CGVDS/{CG[0]}", "CGVDS/Bejeweled3"),
    "live_yt_hfr": (f"{HFR[0]}.webm", f"LIVE-YT-HFR/1Runner/{HFR[0]}.webm", "LIVE-YT-HFR/1Runner"),
    "vqathinker_live_yt_hfr": (f"{HFR[0]}.webm", f"LIVE-YT-HFR/1Runner/{HFR[0]}.webm", "LIVE-YT-HFR/1Runner"),
    "waterloo_ivc_4k": (IVC[0], f"Waterloo-IVC-4K/{IVC[0]}", "Waterloo-IVC-4K/01"),
    "vdpve": (VDPVE[0], f"VDPVE/{VDPVE[0]}", "VDPVE/A0020"),
    "vqathinker_vdpve": (VDPVE[0], f"VDPVE/{VDPVE[0]}", "VDPVE/A0020"),
    "t2vqa_db": ("0.mp4", "T2VQA-DB/videos/0.mp4", "T2VQA-DB/0"),
    "maxwell": (MAX[0], f"MaxWell/{MAX[0]}", "MaxWell/0000"),
    "divide_maxwell": (MAX[0], f"MaxWell/{MAX[0]}", "MaxWell/0000"),
}  # fmt: skip
"""Source -> (item, media path, content) of its first row."""

RAW: dict[str, tuple[float, ...]] = {
    "koniq_10k": (10.0, 20.0, 80.0, 50.0, 60.0),
    "live_vqc_88": tuple(m / 100 for m in MOS),
    "live_nflx_2": tuple(m / 50 - 1 for m in MOS),
    "videofeedback": (1.8, 2.0, 2.2, 2.4, 1.8),
    "cvd2014": (-6.5, *MOS[1:]),
    "vqathinker_lsvq_train": tuple(m / 20 for m in MOS),
    "vqathinker_konvid_1k": (25.0, 30.0, 50.0, 60.0, 90.0),
    **dict.fromkeys(("kadid_10k", "konvid_1k", "youtube_ugc_1380", "youtube_ugc_1147", "youtube_ugc_1020", "cgvds",
                     "maxwell", "divide_maxwell", "vqathinker_cgvds", "tid2013", "bid", "agiqa_3k"), ACR),
}  # fmt: skip
"""Source -> opinions of its five rows, where they are not MOS."""


def write_form(root: Path, source: str) -> Path:
    """The label files of a source below `root`."""
    for name, text in FORMS[source].items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def write_mat(path: Path, name: str, mos: float, stalled: list[int]) -> None:
    """A clip of LIVE-NFLX-II as the archive has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"distorted_mp4_video": f"{name}.mp4", "retrospective_zscored_mos": mos, "frame_rate": 30.0,
                   "N_total_frames": len(stalled), "is_rebuffered_bool": stalled, "VMAF_mat": [1.0]})  # fmt: skip
