"""Common English words for prompts of a given length, and synonyms of options."""

from __future__ import annotations

# Words that are one token, with the space before them, in the usual byte-pair vocabularies.
COMMON_WORDS = tuple(
    """
    the of and to in is that for it as was with be by on not he his but at are this have from or had an they
    which one you were all her she there would their we him been has when who will no more if out so up said
    what its about than into them can only other time new some could these two may first then do any like my
    now over such our man me even most made after also well did many before must years back through much
    where your way down should because long each just state those people how too little good world make very
    year still see own work men day get here old between both life being under three never know same last
    another while us off might great go come since against right came take used states himself house few use
    place during high without again home around small however found part school thought went say general
    once upon war left number course fact though water less public put think almost hand enough far took
    head yet government system better set told nothing night end why called find going look asked later
    point knew next program city business give group toward days young let room within side social present
    given several order second possible rather per face among form important often things looked early white
    case large big need four children along church saw best ever least power light family seemed interest
    want members mind country area others done turned although open god service certain kind problem began
    different door thus help sense means whole matter itself law human above line name local company death
    free read past feet car child question body act tell effect action period
    """.split()  # noqa: SIM905
)

# Other tools' names of options, and ours.
OPTION_SYNONYMS = {
    word: name
    for name, words in {
        "blocks": "n runs repeat repeats repetitions rounds iterations trials num_prompts num_requests",
        "concurrency": "c parallel workers users streams width max_concurrency num_workers",
        "rate": "qps rps request_rate",
        "per_turn": "requests_per_block",
        "warmup": "warm_up warmups warmup_requests num_warmups",
        "prompts": "data dataset file questions input inputs",
        "a budget of seconds": "duration max_seconds time_limit",
        "directory": "output_dir save_dir out_dir",
    }.items()
    for word in words.split()
}
