"""Belebele: questions about passages of FLORES, in 122 languages.

The paper names no split; `test` is the only one. A configuration is a language, `est_Latn`.
Source: paper, appendix C.2 (prompt).
"""

import functools

from lse_interp.tasks.benchmarks import BENCHMARKS, Benchmark, in_each_language
from lse_interp.tasks.data_sets import DataSet, flores_codes
from lse_interp.tasks.kinds.choice import choice_question

__all__ = ["BELEBELE"]

_CODES = """
acm_Arab afr_Latn als_Latn amh_Ethi apc_Arab arb_Arab arb_Latn ars_Arab ary_Arab arz_Arab
asm_Beng azj_Latn bam_Latn ben_Beng ben_Latn bod_Tibt bul_Cyrl cat_Latn ceb_Latn ces_Latn
ckb_Arab dan_Latn deu_Latn ell_Grek eng_Latn est_Latn eus_Latn fin_Latn fra_Latn fuv_Latn
gaz_Latn grn_Latn guj_Gujr hat_Latn hau_Latn heb_Hebr hin_Deva hin_Latn hrv_Latn hun_Latn
hye_Armn ibo_Latn ilo_Latn ind_Latn isl_Latn ita_Latn jav_Latn jpn_Jpan kac_Latn kan_Knda
kat_Geor kaz_Cyrl kea_Latn khk_Cyrl khm_Khmr kin_Latn kir_Cyrl kor_Hang lao_Laoo lin_Latn
lit_Latn lug_Latn luo_Latn lvs_Latn mal_Mlym mar_Deva mkd_Cyrl mlt_Latn mri_Latn mya_Mymr
nld_Latn nob_Latn npi_Deva npi_Latn nso_Latn nya_Latn ory_Orya pan_Guru pbt_Arab pes_Arab
plt_Latn pol_Latn por_Latn ron_Latn rus_Cyrl shn_Mymr sin_Latn sin_Sinh slk_Latn slv_Latn
sna_Latn snd_Arab som_Latn sot_Latn spa_Latn srp_Cyrl ssw_Latn sun_Latn swe_Latn swh_Latn
tam_Taml tel_Telu tgk_Cyrl tgl_Latn tha_Thai tir_Ethi tsn_Latn tso_Latn tur_Latn ukr_Cyrl
urd_Arab urd_Latn uzn_Latn vie_Latn war_Latn wol_Latn xho_Latn yor_Latn zho_Hans zho_Hant
zsm_Latn zul_Latn
"""
BELEBELE = frozenset(_CODES.split())
"""The 122 configurations. Among the languages of the paper, Welsh is missing."""

_OPTIONS = tuple(f"mc_answer{number}" for number in range(1, 5))


BENCHMARKS.register("belebele")(
    Benchmark(
        title="BELEBELE",
        kind="choice",
        tasks=in_each_language,
        data=DataSet(
            "facebook/belebele",
            split="test",
            columns=("flores_passage", "question", *_OPTIONS, "correct_answer_num"),
            configs_of=functools.partial(flores_codes, codes=BELEBELE),
            folders=("Belebele",),
            files=("{config}.jsonl",),
        ),
        question=choice_question(
            "Read the following passage and pick the right answer.\n\n"
            "Passage: {flores_passage}\n\nQuestion: {question}",
            options=_OPTIONS,
            answer="correct_answer_num",
            first=1,
        ),
        example={"correct_answer_num": "1"},
    )
)
