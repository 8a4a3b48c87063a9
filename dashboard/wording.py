"""Words of the page: one sentence for every control, column and chart; numbers as the panels write them; what is awaited.

Numbers have three significant digits, a real minus sign, and a space before per cent.
"""

from __future__ import annotations

from typing import Any, Final

from engine import Answer

SMALLEST, FINE, WHOLE, LARGEST = 0.0001, 0.001, 0.0995, 0.995
"""Shares below the first are not written in digits, below the second with two decimals, from the third on in whole per cent."""


def number(value: float) -> str:
    """Return three significant digits, for example `0.0312`."""
    return f"{value:.3g}".replace("-", "−")


def signed(value: float) -> str:
    """Return three significant digits with a sign, for example `+1.25`; zero has none."""
    return "0" if value == 0 else f"{value:+.3g}".replace("-", "−")


def percent(share: float) -> str:
    """Return a share in per cent: two significant digits, at most two decimals, never 0 or 100 for what is neither.

    `percent` of assets/dom.js writes the same.
    """
    size = abs(share)
    if 0 < size < SMALLEST:
        text = f"<{100 * SMALLEST:g}"
    elif size < FINE:
        text = f"{round(100 * size, 2):g}"
    elif size < WHOLE:
        text = f"{100 * size:.2g}"
    else:
        text = ">99" if LARGEST <= size < 1 else f"{100 * size:.0f}"
    return f"{'−' if share < 0 else ''}{text} %"


def signed_percent(share: float) -> str:
    """Return the same with a sign; zero has none."""
    return percent(share) if share <= 0 else f"+{percent(share)}"


def bounds(low: float, high: float) -> str:
    """Return an interval of shares as `[low, high]` in per cent."""
    return f"[{percent(low).removesuffix(' %')}, {percent(high).removesuffix(' %')}]"


def measured(value: float, low: float, high: float) -> str:
    """Return an accuracy with its interval, to a tenth of a per cent: a threshold is held to as much."""
    return f"{100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def awaited(answer: Answer[Any], *, doing: str, failed: str) -> str:
    """Return what is said while an answer has no value: how far the work is, or why it failed."""
    if answer.state == "failed":
        return f"{failed}: {answer.message}"
    done = f" ({answer.done} of {answer.total})" if answer.total else ""
    return f"{(answer.message or doing).rstrip('. …')}{done} …"


TERMS: Final = {
    # filters
    "model-select": "The image classifier that is attacked and explained.",
    "data-select": "The images it is attacked on; only sets whose classes the model has are offered.",
    "label-select": "The true class: images that carry this label. 'First class that fits' prefers one whose checks hold.",
    "attack-select": "How the image was changed. Attacks look for a change that fools; noise controls change as much at random.",
    "epsilon-select": "How much the attack may change, in the attack's own measure: for L∞ the largest change of any pixel.",
    "outcome-select": "Fooled: the attack changed the right answer. The other choice: the model was right and stayed right.",
    "sample-select": "One image of this class with this attack result, or up to sixteen of them together.",
    "method-select": "How a channel's part in the answer is measured; two-run scores are usual, the others for comparison.",
    "share-select": "How many channels of each layer count as the datapath: the strongest of them, as a share of the layer.",
    "versus-select": "A second river below the first: another attack or epsilon on the same images, the fooled-into class, noise.",
    "layer-select": "The layer that the second level shows; the same as a click on its column.",
    # header
    "page-explain": "Where inside the network an attack on these images takes hold.",
    "page-audits": "Runs that measure how often attacks succeed, against thresholds agreed before.",
    "page-models": "What models and data sets this store holds, how they were checked, and how to add one.",
    "theme": "Light or dark colours; the link keeps the choice.",
    "copy-link": "Copies the address of exactly this view, with what it shows, the date and the hash of its evidence.",
    "help": "Every word of the page, how to read each level, and what a claim means, on a page of its own.",
    "tour": "Six steps through the page; Escape ends them.",
    "meaning": "What does this mean? How to read this part, and what it cannot say.",
    "colour-bar": "Which colour stands for which activation; both images of a channel share one scale.",
    "save": "Saves what is shown here as a picture or a table; the file's name says what it shows.",
    "save-png": "A picture as it stands here, with a line that says what it is of.",
    "save-svg": "The same as a drawing that stays sharp at any size.",
    "save-csv": "The values that are drawn, as a table.",
    "retry": "Asks for the failed piece of work again.",
    "cancel": "Goes back to the view that is still shown; what is being computed is kept in the store for later.",
    # case and verdict
    "case-toggle": "Shows or hides the pictures, the answers before and after, and the other samples.",
    "counts": "How every attacked image of this class ended; misclassified before the attack counts as clean wrong.",
    "scope": "One image, or several together: those that became the same class, or all of them, with how many there are.",
    "strip": "Other images of this class with the same attack result; arrow keys move among them.",
    "before-after": "The model's confidence in its first classes, on the clean image (before) and on the attacked one (after).",
    "photos": "Clean and attacked image, and their difference enlarged so that it can be seen.",
    "verdict-fact": "Measured on these images; not a claim about the network.",
    "verdict-held": "Stated, and no check speaks against it.",
    "verdict-refuted": "Not shown: a check speaks against it, so it is no claim. The reasons stand under Checks.",
    "verdict-open": "Not decided: the checks that could refute it still run, or images or trials are too few to tell.",
    "verdict-checks": "Checks with a limit, for both runs: how many hold, fail, and are not decided. Opens them one by one.",
    # network
    "lane": "Turns between attack conductance and, at each layer alone, the share of its channels that restore the label.",
    "detail": "Blocks draws one column per block of the network; every layer draws all of them.",
    "river": "A column per layer: its bar is the channels each run relies on; bands are the strongest connections between layers.",
    "river-reset": "Shows the whole river again after panning or zooming.",
    "legend": "Orange: among the strongest only under attack. Grey: in both runs. Blue: only in the clean run.",
    "choosing": "While on, clicks and rectangles choose channels to patch instead of opening them; Escape ends it.",
    "levels": "The three levels one at a time; a click on a column or a tile opens the level below.",
    # layer
    "layer-group": "Which channels are shown: all, or those that only one run, both runs or neither relies on.",
    "layer-sort": "Importance in either run, change between the runs, attack conductance, or the channel's number.",
    "layer-more": "Colour scale, kind of picture, causal tests of whole groups, and all combinations of datapaths.",
    "layer-scale": "Per channel: each picture uses its own brightest value. Per layer: one scale, so that tiles compare.",
    "layer-mode": "The channel's activation alone, laid over the input, or adversarial minus clean.",
    "layer-test": "Patches all channels of this group at this layer and tells what the answer becomes.",
    "combinations": "Which channels the fooled-into class and equally large noise rely on as well, with exact counts.",
    "sets": "How many channels of this layer each run relies on: C clean only, S shared, A adversarial only, – neither.",
    "tiles": "A channel each: clean left, adversarial right. Letter: its group. Δ: relative change of its map under attack.",
    # neuron
    "overlay": "Lays the channel's activation over the input it answers to.",
    "tab-patches": "Crops of the data set that this channel answers to most.",
    "tab-links": "The channels that contribute most to this one, and those it contributes most to.",
    "tab-feature": "A picture made to excite this channel: what it can answer to, not what it finds in this data.",
    "tab-growth": "The channel's peak as epsilon grows, under the attack and under noise of the same size.",
    "tab-histogram": "How many positions of the channel answer how strongly, on the clean and the attacked input.",
    "tab-numbers": "The channel's rank, score and contribution in both runs, and what the boxes on the pictures are.",
    "patch-order": "By relevance: crops where the channel matters for the class. By activation: where it is largest.",
    "connection-side": "The run whose contributions are ranked: clean or adversarial.",
    "neighbour": "Opens this channel; its contribution to the one shown stands behind it, in logits of the margin.",
    "distribution": "Positions of the channel by activation; the count is logarithmic, noise of the same size is dashed.",
    "response": "Peak of the channel over epsilon; filled marks: most images fooled. Dotted: noise of the same length.",
    "test-channel": "Patches this one channel and tells what the answer becomes.",
    "rank": "Place of this channel among those of its layer, 1 is the strongest.",
    "score-share": "Part of all scores of the datapath that falls on this channel.",
    "contribution": "What the channel adds to the margin between the two classes, in logits.",
    "kept": "Whether the channel is among the strongest that count as the datapath.",
    # drawer
    "drawer-checks": "Whether the datapaths can be trusted: each check, which way is good, and what was found.",
    "drawer-test": "Clean values put into the attacked run, beside five controls: what the answer becomes.",
    "drawer-study": "The same question over all fooled images of the class.",
    "drawer-layers": "Every layer's counts, distance and attack conductance as a table, and as a file.",
    "drawer-evidence": "What this view was made from: hashes of model and data, the attack with its settings, seed and versions.",
    "copy-evidence": "Copies all of it with the link and the date, for a report.",
    "direction": "Puts adversarial values into the clean run instead, to see whether they bring the error about.",
    "sizes": "Patches this many channels, those that stand out most in their layers, beside every control.",
    "choice-test": "Patches the chosen channels and tells what the answer becomes.",
    "choice-clear": "Forgets the chosen channels.",
    "study-curve": "How many channels have to be patched until the true class is back, against random ones.",
    "study-profile": "What patching one layer at a time restores.",
    "study-faithfulness": "How faithful growing sets are by the field's measures, beside layer-matched random channels.",
    "study-localisation": "Layer by layer, the share of channels that must be patched alone, by ranking and in random order.",
    "study-smallest": "The smallest sets of channels that restore the class, image by image, and which channels recur.",
    "study-defence": "Whether holding the recurring channels at their mean makes other images more robust.",
    "study-plot": "What is restored, with 95 % intervals; lines of controls are neutral.",
    "check-name": "What is asked of the datapaths.",
    "check-good": "Which way speaks for them; checks without a limit are facts.",
    "check-clean": "What was found for the clean run; ✘ speaks against it.",
    "check-adversarial": "What was found for the attacked run; ✘ speaks against it.",
    "restored-maps": "How many clean channels are patched into the attacked run.",
    "restored-flow": "Share of images whose class comes back with the first channels of the default ranking.",
    "restored-random": "The same with equally many channels drawn at random.",
    "restored-matched": "The same with as many random channels of the same layers: the control that decides.",
    "bound": "No set of fewer channels restores the label, if more clean channels never undo what fewer restore.",
    "ratio": "How many times as many channels it takes in random order; near 1, the attack is everywhere in the layer.",
    "site": "A layer of the network; a click opens it.",
    "stage": "Part of the network that the layer belongs to.",
    "maps": "Channels of the layer, or of the set.",
    "adversarial-only": "Channels among the strongest only under attack; a click chooses them for patching.",
    "shared": "Channels among the strongest in both runs.",
    "clean-only": "Channels among the strongest only in the clean run.",
    "distance": "How differently both runs use the layer: 0 the same channels, 1 none in common (1 − Jaccard).",
    "noise": "The same distance under noise of the same size, lowest to highest.",
    "conductance": "Part of the margin lost that passes through this layer alone; layers overlap and need not add up to 100 %.",
    "conductance-noise": "The largest such part under noise of the same size.",
    "note": "Why a layer is left out of claims.",
    "patched": "What was patched: the chosen channels, and controls of the same number.",
    "margin": "How far the margin between the two classes moves to its other value, 100 % is all of the way.",
    "aimed": "Images that then answer as the patched values would have it.",
    "interval": "The same as a point with its 95 % interval, from 0 to 100 %.",
    "image": "The image, by its key in the data set.",
    # audits
    "audit-new": "Plans a run: what is attacked, how, and what it must reach; nothing starts before you say so.",
    "audit-find": "Shows only runs whose name, model, data, author, tier, date or id holds these words.",
    "audit-state": "Shows only runs in this state, or with this verdict.",
    "audit-curve": "Right answers at every epsilon that was run, with Clopper-Pearson 95 % intervals over images.",
    "audit-begin": "Begins the run as it stands above; possible once its cost is known.",
    "audit-cost": "Checks every field, and tells how long the run will take on this machine.",
    "audit-add": "Adds a row to fill in.",
    "audit-remove": "Takes this row out again.",
    "run-name": "The run's name in its plan; a click opens it.",
    "run-about": "The judged model, the data it is judged on, and how many of its images.",
    "run-begun": "When the run was begun, in UTC.",
    "run-seconds": "How long it was worked on; pauses are left out.",
    "run-author": "Who asked for it: the page, or the command line.",
    "run-tier": "How thoroughly it attacks: fast, standard, thorough, or attacks of its own.",
    "run-state": "Whether it goes on, was stopped, or is finished, and how far it is.",
    "run-verdict": "What the thresholds that were agreed before the run say together.",
    "run-clone": "Opens the form filled with the plan of this run.",
    "run-stop": "Stops the run between two pieces of work; what is done is kept.",
    "run-resume": "Goes on where the run was left.",
    "run-conditions": "Every attack, noise and curve point of each model, with how its images ended.",
    "run-versus": "Both models on the same images: who is right more often, and whether that could be chance.",
    "run-sanity": "Checks whether attacks on this model can be trusted, or only look strong.",
    "run-facts": "Models, data, seeds and versions with their hashes, so that the run can be made again.",
    "csv": "The whole table as a CSV file, every row and every digit.",
    "heat": "Share of each class that is still right under each attack; darker is worse.",
    "heat-table": "The same as a table: every cell with its interval and number of images.",
    "outcome": "Pass or fail where the whole interval lies on one side of the threshold, else inconclusive.",
    "threshold": "What the run was to reach, by its name in the plan.",
    "agreed": "What was agreed before there were results; it cannot be changed afterwards.",
    "found": "What was measured, with the interval that is named beside it.",
    "n": "Number of images behind the figure.",
    "interval-method": "How the interval is made, and its confidence; the same method decides and is shown everywhere.",
    "class": "The true class of the images: the label they carry.",
    "condition": "Without attack (clean), or the attack with all its settings; worst-case is any of them.",
    "right": "Share of images still answered right, with its exact interval at 95 %.",
    "ended": "How many images were misclassified clean, were fooled, withstood it or stayed as they were.",
    "into": "The classes that fooled images were most often taken for.",
    "difference": "Candidate minus baseline in points of accuracy; above 0 the candidate is better.",
    "one-alone": "Images that only one of the two models got right.",
    "p-value": "How likely a difference as large is by chance, adjusted for all comparisons of the run.",
    "check": "What was checked, each by a rule of its own.",
    # inside the model of a run
    "inside-role": "Whose inside is shown: the candidate, or the baseline that it is compared with.",
    "inside-ended": "Images that the attacks fooled, or that kept their right answer; the two are never mixed.",
    "inside-attacks": "Adds this attack to what is shown, or takes it out again; All shows every attack of the run.",
    "inside-classes": "Where attacks take hold in images of each true class; a button adds a class or takes it out again.",
    "inside-layers": "How much of the attack passes through each layer, over all chosen images, with noise as the floor.",
    "inside-river": "Which channels of each layer clean and attacked images of the run rely on, and what joins them.",
    "within": "Lists the channels of this layer alone, those that carry most of the attack; All layers takes it back.",
    "weak-map": "A channel at a layer, among those that carry most of the attack; a click opens it in Explain.",
    "layer-flow": "Net attack conductance of the layer, as a share of all conductance of an image; layers overlap.",
    "layer-noise": "The same share under the noise controls of the run, over images that stayed right.",
    "score-change": "How much larger the layer's share of all scores is under attack than without it.",
    "score-noise": "The same change under the noise controls of the run.",
    "cluster": "Classes with the same number fail in the same layers; none where they cluster no better than by chance.",
    "most-at": "The layer with the largest share of the class's attack conductance.",
    "map-flow": "Mean attack conductance through the channel, with Student's t interval over images; 1 is the average channel.",
    "map-noise": "The same under the noise controls; images that stayed right.",
    "map-p": "How likely so much more conductance than under noise is by chance, adjusted for all channels of the network.",
    # models and data
    "archive": "Takes it out of the menus; nothing is deleted, and it can be taken back.",
    "take-back": "Puts it back into the menus.",
    "plan": "Opens the form of a new audit with this model and data.",
    "explain-it": "Opens Explain with this model and data.",
    "copy-hash": "Copies the whole hash, by which the same content is known again.",
    "audits-of": "Opens the runs that this is part of.",
    "check-model": "Checks the model as it was handed in, and shows what was found.",
    "import-files": "Files that can be added from here; what cannot be added is not listed.",
    "import-model": "Adds weights from the import folder as a model.",
    "import-data": "Adds images from the import folder as a data set.",
    "import-more": "What is seldom needed: preprocessing, label numbers, licence.",
    "import-add": "Adds it to the store, after it was checked.",
    "upload": "Sends files into the import folder of the server; nothing is added to the store by that alone.",
    "model": "A classifier of the store; a new name for every version.",
    "architecture": "The network that the weights were loaded into, with its feature maps and parameters.",
    "takes": "Input size in pixels, and whether it is grey or colour.",
    "classes": "How many classes it tells apart, or has images of.",
    "origin": "The file it was read from, and the licence that was stated.",
    "added": "When it came into the store, in UTC.",
    "content": "Hash of the content: the same hash is the same model or data.",
    "audits": "How many audit runs it is part of.",
    "validation": "What the checks of the model found, by the data set they were made on.",
    "data-set": "Labelled images of the store, with what an auditor should know of them.",
    "pixels": "Height and width of its images, and whether they have colours.",
    "fits": "Models it can be shown to: those that know all of its classes.",
    "file": "A file or folder that lies in the import folder of the server.",
    "kind": "What it would be added as; its content decides when it is added.",
    "bytes": "How large the file is; the folder has limits for each kind.",
    "written": "When it was last written, in UTC.",
    "fails-when": "What would have to be seen for the check to fail.",
}
"""One sentence for each control, column and chart, shown where it stands (assets/glossary.js)."""
COLUMNS: Final = {
    "Rank at this layer": "rank",
    "Share of all scores": "score-share",
    "Contribution": "contribution",
    "Kept": "kept",
    "Put in": "patched",
    "Margin recovered": "margin",
    "Answers as aimed": "aimed",
    "0 to 100 %": "interval",
    "Image": "image",
    "Layer": "site",
    "Channels": "maps",
    "Random: margin": "restored-random",
    "Random: labels": "restored-random",
    "Labels restored": "aimed",
    "At least": "bound",
    "Of the same layers": "restored-matched",
    "Share by ranking": "restored-flow",
    "Share at random": "restored-random",
    "Ratio": "ratio",
    "Outcome": "outcome",
    "Threshold": "threshold",
    "Agreed before the run": "agreed",
    "Found": "found",
    "Images": "n",
    "Interval": "interval-method",
    "Class": "class",
    "Condition": "condition",
    "Right (Clopper-Pearson, 95 %)": "right",
    "Right after it (Clopper-Pearson, 95 %)": "right",
    "How the images ended": "ended",
    "Most often into": "into",
    "Candidate minus baseline, points (Newcombe, 95 %)": "difference",
    "Right in one alone: candidate, baseline": "one-alone",
    "p (exact McNemar, Holm)": "p-value",
    "Feature map": "weak-map",
    "Conductance share": "layer-flow",
    "Conductance share, noise": "layer-noise",
    "Score change": "score-change",
    "Score change, noise": "score-noise",
    "Cluster": "cluster",
    "Most conductance at": "most-at",
    "Conductance (t, 95 %)": "map-flow",
    "Under noise (t, 95 %)": "map-noise",
    "p above noise (Welch, Holm)": "map-p",
    "Check": "check",
    "Fails when": "fails-when",
    "Model": "model",
    "Architecture": "architecture",
    "Takes": "takes",
    "Classes": "classes",
    "Source and licence": "origin",
    "Added (UTC)": "added",
    "Content": "content",
    "Audits": "audits",
    "Validation report": "validation",
    "Data set": "data-set",
    "Size": "pixels",
    "Fits": "fits",
    "File": "file",
    "Kind": "kind",
    "File size": "bytes",
    "Written (UTC)": "written",
}
"""The terms of column heads."""
NAMES: Final = {
    "label-select": "Class",
    "epsilon-select": "Epsilon ε",
    "outcome-select": "Attack result",
    "method-select": "Attribution method",
    "share-select": "Top-k per layer",
    "versus-select": "Compare with",
    "page-models": "Models and data",
    "audit-new": "New audit",
    "audit-find": "Find a run",
    "audit-state": "State of the run",
    "audit-curve": "Curve over epsilon",
    "audit-begin": "Start",
    "audit-cost": "What will it cost?",
    "audit-add": "Add",
    "audit-remove": "Remove",
    "run-name": "Name of the run",
    "run-about": "What is audited",
    "run-begun": "Began (UTC)",
    "run-seconds": "Took",
    "run-author": "Started by",
    "run-tier": "Tier",
    "run-state": "State",
    "run-verdict": "Verdict",
    "run-clone": "Clone",
    "run-stop": "Stop",
    "run-resume": "Go on",
    "run-conditions": "Conditions",
    "run-versus": "Candidate against baseline",
    "run-sanity": "Attack sanity checks",
    "run-facts": "What the run is made of",
    "csv": "CSV",
    "heat": "Classes and attacks",
    "heat-table": "Classes and attacks as a table",
    "plan": "New audit of it",
    "explain-it": "Explain",
    "audits-of": "Audits of it",
    "import-files": "Files of the import folder",
    "import-model": "Add a model",
    "import-data": "Add a data set",
    "import-more": "More settings",
    "import-add": "Add it",
    "fits": "Fits which models",
    "difference": "Candidate minus baseline",
    "counts": "How the attacks ended",
    "strip": "Other images",
    "before-after": "Before and after",
    "photos": "The two images",
    "verdict-fact": "Measured",
    "verdict-held": "✔ no check speaks against it",
    "verdict-refuted": "✘ not shown",
    "verdict-open": "? not decided",
    "verdict-checks": "Checks counted",
    "detail": "Blocks, every layer",
    "river-reset": "Whole river",
    "choosing": "Choose channels",
    "layer-group": "Show",
    "layer-sort": "Sort by",
    "layer-more": "More",
    "layer-scale": "Colour scale",
    "layer-mode": "Kind of picture",
    "layer-test": "Causal test of a group",
    "combinations": "All combinations",
    "sets": "Sets of channels",
    "overlay": "Map over input",
    "tab-links": "Connections",
    "patch-order": "Order of the patches",
    "connection-side": "Run of the connections",
    "distribution": "Histogram of the channel",
    "response": "Growth over epsilon",
    "test-channel": "Test this channel",
    "drawer-checks": "Faithfulness checks",
    "drawer-test": "Causal test",
    "drawer-study": "Studies",
    "drawer-layers": "Exact numbers",
    "drawer-evidence": "Evidence",
    "direction": "The other way round",
    "sizes": "Patch the channels that stand out most",
    "choice-test": "Test them",
    "choice-clear": "Clear the choice",
    "study-curve": "How many channels it takes",
    "study-profile": "Which layers carry it",
    "study-faithfulness": "Faithfulness curve (CPR, CMD)",
    "study-localisation": "Few channels or everywhere?",
    "study-smallest": "Smallest sets",
    "study-defence": "Would fixing them help?",
    "study-plot": "Plot of a study",
    "check-good": "Good is",
    "check-name": "Check",
    "check-clean": "Check, clean run",
    "check-adversarial": "Check, adversarial run",
    "restored-maps": "Channels patched",
    "restored-matched": "Layer-matched random",
    "restored-random": "Random",
    "restored-flow": "By the default ranking",
    "noise": "Same-size noise",
    "conductance": "Attack conductance",
    "conductance-noise": "Conductance under noise",
    "bound": "At least so many channels",
    "aimed": "Answers as aimed",
    "inside-role": "Model of the run",
    "inside-ended": "Images of the run",
    "inside-attacks": "Attacks of the run",
    "inside-classes": "Classes of the run",
    "inside-layers": "Layers of the run",
    "inside-river": "River of the run",
    "within": "Channels of one layer",
}
"""What terms are called on the page of help, where their own name and their column head do not say it."""


def title(name: str) -> str:
    """Return what a term is called: `Save` of `save`, `Model` of `model-select`, `Rank at this layer` of `rank`."""
    if name in NAMES:
        return NAMES[name]
    heads = [head for head, own in COLUMNS.items() if own == name]
    bare = name.removesuffix("-select").removeprefix("page-").removeprefix("tab-")
    return heads[0] if heads else bare.replace("-", " ").capitalize()
