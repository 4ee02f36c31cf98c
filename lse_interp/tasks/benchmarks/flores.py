"""FLORES: sentences to translate, in 204 languages.

FLORES+ is the maintained edition of FLORES-200. The paper says "valtest", which FLORES does not
have; `devtest` is read. A configuration is a language, with the columns `id` and `text`; languages
are aligned by `id`, in the order of English.
"""

from collections.abc import Iterator

from lse_interp.core.languages import Language, lookup
from lse_interp.data.hub import FLORES
from lse_interp.data.parallel import ParallelText, align_by_id
from lse_interp.data.source_spec import expand
from lse_interp.tasks.benchmarks import BENCHMARKS, Benchmark, Reading, in_both_directions
from lse_interp.tasks.data_sets import DataSet, flores_codes
from lse_interp.tasks.kinds.translation import translation_documents
from lse_interp.tasks.task import Document, Task

__all__ = ["FLORES_200"]

_CODES = """
ace_Arab ace_Latn acm_Arab acq_Arab aeb_Arab afr_Latn ajp_Arab aka_Latn als_Latn amh_Ethi
apc_Arab arb_Arab arb_Latn ars_Arab ary_Arab arz_Arab asm_Beng ast_Latn awa_Deva ayr_Latn
azb_Arab azj_Latn bak_Cyrl bam_Latn ban_Latn bel_Cyrl bem_Latn ben_Beng bho_Deva bjn_Arab
bjn_Latn bod_Tibt bos_Latn bug_Latn bul_Cyrl cat_Latn ceb_Latn ces_Latn cjk_Latn ckb_Arab
crh_Latn cym_Latn dan_Latn deu_Latn dik_Latn dyu_Latn dzo_Tibt ell_Grek eng_Latn epo_Latn
est_Latn eus_Latn ewe_Latn fao_Latn fij_Latn fin_Latn fon_Latn fra_Latn fur_Latn fuv_Latn
gaz_Latn gla_Latn gle_Latn glg_Latn grn_Latn guj_Gujr hat_Latn hau_Latn heb_Hebr hin_Deva
hne_Deva hrv_Latn hun_Latn hye_Armn ibo_Latn ilo_Latn ind_Latn isl_Latn ita_Latn jav_Latn
jpn_Jpan kab_Latn kac_Latn kam_Latn kan_Knda kas_Arab kas_Deva kat_Geor kaz_Cyrl kbp_Latn
kea_Latn khk_Cyrl khm_Khmr kik_Latn kin_Latn kir_Cyrl kmb_Latn kmr_Latn knc_Arab knc_Latn
kon_Latn kor_Hang lao_Laoo lij_Latn lim_Latn lin_Latn lit_Latn lmo_Latn ltg_Latn ltz_Latn
lua_Latn lug_Latn luo_Latn lus_Latn lvs_Latn mag_Deva mai_Deva mal_Mlym mar_Deva min_Arab
min_Latn mkd_Cyrl mlt_Latn mni_Beng mos_Latn mri_Latn mya_Mymr nld_Latn nno_Latn nob_Latn
npi_Deva nso_Latn nus_Latn nya_Latn oci_Latn ory_Orya pag_Latn pan_Guru pap_Latn pbt_Arab
pes_Arab plt_Latn pol_Latn por_Latn prs_Arab quy_Latn ron_Latn run_Latn rus_Cyrl sag_Latn
san_Deva sat_Olck scn_Latn shn_Mymr sin_Sinh slk_Latn slv_Latn smo_Latn sna_Latn snd_Arab
som_Latn sot_Latn spa_Latn srd_Latn srp_Cyrl ssw_Latn sun_Latn swe_Latn swh_Latn szl_Latn
tam_Taml taq_Latn taq_Tfng tat_Cyrl tel_Telu tgk_Cyrl tgl_Latn tha_Thai tir_Ethi tpi_Latn
tsn_Latn tso_Latn tuk_Latn tum_Latn tur_Latn twi_Latn tzm_Tfng uig_Arab ukr_Cyrl umb_Latn
urd_Arab uzn_Latn vec_Latn vie_Latn war_Latn wol_Latn xho_Latn ydd_Hebr yor_Latn yue_Hant
zho_Hans zho_Hant zsm_Latn zul_Latn
"""
FLORES_200 = frozenset(_CODES.split())
"""The 204 languages of FLORES-200. FLORES+ has some of them under other codes (`ekk_Latn` for
`est_Latn`, `cmn_Hans` for `zho_Hans`)."""


def _configs(language: Language) -> tuple[str, ...]:
    known = flores_codes(language, FLORES_200)
    return tuple(dict.fromkeys((*known, *expand("{flores}", language=language)))) if known else ()


_DATA = DataSet(
    FLORES,
    split="devtest",
    columns=("id", "text"),
    configs_of=_configs,
    folders=("flores200_dataset", "flores_plus"),
)


def _documents(task: Task, reading: Reading) -> Iterator[Document]:
    assert task.source is not None
    # English first: its order is that of the questions.
    codes = sorted((task.source, task.language), key=lambda code: code != "eng")
    tables = {code: _DATA.rows("flores", lookup(code), data_dir=reading.data_dir) for code in codes}
    where = FLORES if reading.data_dir is None else f"FLORES in {reading.data_dir}"
    text = ParallelText(tuple(codes), align_by_id(tables, what=where), where, _DATA.split)
    pairs = zip(text.sentences[task.source], text.sentences[task.language], strict=True)
    yield from translation_documents(task, pairs, style=reading.prompt_style)


BENCHMARKS.register("flores")(
    Benchmark(
        title="FLORES",
        kind="translation",
        tasks=in_both_directions,
        data=_DATA,
        documents=_documents,
    )
)
