/* Drawing what stands around the river from one store of plain values. Text is only ever set as text. */
(function () {
  'use strict';

  const { byId, emit, fill, make, on, panel, percent, pick } = window.faultline;
  const shown = { facts: null, layer: null };

  function table(caption, heads, rows) {
    const head = make('tr', {}, ...heads.map(([text, term]) => make('th', { scope: 'col' },
      make('span', term ? { 'data-term': term, tabindex: '0' } : {}, text))));
    return make('table', {}, make('caption', { class: 'sr-only' }, caption), make('thead', {}, head),
      make('tbody', {}, ...rows));
  }

  const row = (first, cells, settings) => make('tr', settings,
    make('th', { scope: 'row' }, first), ...cells.map((cell) => make('td', {}, cell)));

  /* ---- inputs ---- */
  function photo(address, title, text, look) {
    const image = make('img', { src: address, alt: `${title}: ${text}`, class: 'photo', width: 116, height: 116 });
    const caption = make('figcaption', {}, make('strong', {}, title), make('span', {}, text));
    return make('figure', { class: look }, image, caption);
  }

  function share(value, look) {
    if (value === null) { return make('span', { class: 'bar' }, make('span', { class: 'figure muted' }, '–')); }
    const bar = make('span', { class: `fill ${look}`, style: `width:${Math.max(0.5, 100 * value)}%` });
    return make('span', { class: 'bar' }, make('span', { class: 'track' }, bar), make('span', { class: 'figure' }, percent(value)));
  }

  function predictions(strip) {
    const rows = strip.bars.map((one) => row(
      make('span', {}, one.name, one.is_true ? make('span', { class: 'muted' }, ' (true)') : null),
      [share(one.before, 'clean'), share(one.after, 'adversarial')]));
    return make('div', { class: 'predictions', 'data-term': 'before-after', tabindex: '0', role: 'group', 'aria-label': 'Before and after' },
      table('What the model says before and after', [['Class'], ['Before'], ['After']], rows));
  }

  function member(one) {
    const button = make('button', { class: 'member', title: one.text, 'aria-label': `Open sample ${one.text}` },
      make('img', { src: one.picture, alt: '', width: 40, height: 40, class: 'photo' }));
    button.addEventListener('click', () => {
      pick({ sample: one.sample });
    });
    return button;
  }

  function inputs(facts) {
    if (!facts) { fill('inputs-body'); return; }
    const strip = facts.inputs;
    const pictures = make('div', { class: 'photos', 'data-term': 'photos' },
      photo(strip.clean, 'Clean', strip.clean_text, 'clean'),
      photo(strip.adversarial, 'Adversarial', strip.adversarial_text, 'adversarial'),
      photo(strip.perturbation, `Perturbation × ${strip.amplification}`, strip.change, 'perturbation'));
    const members = strip.members.length
      ? make('div', { class: 'members', role: 'group', 'aria-label': 'Images of the group' }, ...strip.members.map(member))
      : null;
    const about = make('p', { class: 'sample-title' }, strip.title);
    fill('inputs-body', pictures, make('div', { class: 'inputs-text' }, about, predictions(strip)), members || '');
  }

  /* ---- network ---- */
  function pickButton(one) {
    const button = make('button', { class: 'row-button', 'aria-current': one.site === shown.layer ? 'true' : null }, one.site);
    button.addEventListener('click', () => {
      pick({ layer: one.site });
    });
    return button;
  }

  function siteRow(one) {
    const choose = make('button', { class: 'row-button', 'data-choose': `adversarial:${one.site}`,
      'aria-label': `Choose the ${one.adversarial_only} adversarial-only maps of ${one.site} for patching` }, `${one.adversarial_only} +`);
    const cells = [one.stage, one.maps, one.adversarial_only ? choose : 0, one.shared, one.clean_only, one.distance.toFixed(3),
      one.floor_low === null ? '–' : `${one.floor_low.toFixed(3)} to ${one.floor_high.toFixed(3)}`, percent(one.flow),
      one.flow_floor === null ? '–' : percent(one.flow_floor),
      one.role === 'stem' ? 'stem: left out of claims'
        : one.role === 'evidence' ? 'the classes themselves: left out of claims' : one.is_cut ? 'every path runs through it' : ''];
    return row(pickButton(one), cells.map((cell) => (cell === choose ? cell : String(cell))), { class: one.site === shown.layer ? 'picked' : null });
  }

  const HEADS = [['Layer', 'site'], ['Stage', 'stage'], ['Channels', 'maps'], ['Adversarial only', 'adversarial-only'], ['Shared', 'shared'],
    ['Clean only', 'clean-only'], ['Distance', 'distance'], ['Same-size noise', 'noise'], ['Attack conductance', 'conductance'],
    ['Conductance under noise', 'conductance-noise'], ['Note', 'note']];

  const HOW = 'Drag to pan, Ctrl and wheel to zoom, click a stage name to fold or unfold it.';
  const HOW_TO_CHOOSE = 'Click a bar or drag a rectangle over bars to choose their maps; Escape ends choosing.';

  function network(facts) {
    if (!facts) { ['beside', 'site-table', 'river-note'].forEach((id) => fill(id)); return; }
    fill('beside', facts.beside);
    fill('river-summary', facts.summary);
    fill('river-note', make('span', { class: 'when-looking' }, HOW),
      make('span', { class: 'when-choosing' }, HOW_TO_CHOOSE), facts.note ? ` ${facts.note}` : '');
    byId('river-note').title = facts.note;
    siteTable(facts);
  }

  function siteTable(facts) {
    const focused = document.activeElement && document.activeElement.closest('#site-table') !== null;
    fill('site-table', table('Exact numbers of every layer', HEADS, facts.sites.map(siteRow)));
    const current = focused && document.querySelector('#site-table [aria-current]');
    if (current) { current.focus(); }
  }

  /* ---- certificate ---- */
  /* A check with a limit holds or fails; one without is a fact. */
  function checkRow(check, limited) {
    const isLimited = limited.includes(check.good);
    const name = make('span', { title: check.help }, check.name, make('span', { class: 'sr-only' }, `. ${check.help}`));
    const look = (text) => (text === 'not run' || text.startsWith('?') ? 'open' : text.startsWith('✘') ? 'value against' : 'value');
    const isHeld = (text) => isLimited && look(text) === 'value' && text !== 'not applicable';
    const value = (text) => make('span', { class: look(text) }, isHeld(text) ? make('span', { class: 'mark' }, '✔ ') : null, text);
    const good = isLimited ? check.good : `fact; better ${check.good}`;
    return row(name, [make('span', { class: 'muted' }, good), value(check.clean), value(check.adversarial)], { class: isLimited ? 'is-held' : 'is-fact' });
  }

  function restoredRow(one, best) {
    const bar = (text, look) => make('span', { class: 'bar' },
      make('span', { class: 'track' }, make('span', { class: `fill ${look}`, style: `width:${width(text)}%` })),
      make('span', { class: 'figure' }, text));
    const mark = one.maps === best ? `${one.maps} ◀` : String(one.maps);
    const matched = one.layer_matched ? [bar(one.layer_matched, 'shared')] : [];
    return row(mark, [bar(one.by_flow, 'strong'), ...matched, bar(one.at_random, 'shared')]);
  }

  function width(text) {
    const value = parseFloat(text.replace(/[<>]/, ''));
    return Number.isFinite(value) ? Math.max(0.5, value) : 0;
  }

  function card(facts) {
    if (!facts) { ['checks', 'restoration', 'check-failures'].forEach((id) => fill(id)); return; }
    const { checks, restored, best, restoration_note: note, failures, warnings, counted } = facts.card;
    fill('checks', table('Faithfulness checks of both datapaths', [['Check', 'check-name'], ['Good is', 'check-good'], ['Clean', 'check-clean'], ['Adversarial', 'check-adversarial']],
      checks.map((check) => checkRow(check, facts.limited))), make('p', { class: 'note' }, counted),
    ...warnings.map((text) => make('p', { class: 'warning', role: 'note' }, text)));
    const rows = restored.map((one) => restoredRow(one, best));
    const shown = rows.length
      ? table('Share of images restored', [['Channels', 'restored-maps'], ['By the default ranking', 'restored-flow'],
        ...(restored[0].layer_matched ? [['Layer-matched random', 'restored-matched']] : []), ['Random', 'restored-random']], rows) : '';
    fill('restoration', shown, make('p', { class: rows.length ? 'note' : 'note open' }, note));
    fill('check-failures', ...failures.map((text) => make('p', { role: 'alert' }, text)));
  }

  /* ---- what can be saved of it ---- */
  const { offer } = window.faultline;
  const saving = () => window.faultline.saving;
  const shownFacts = (list) => (shown.facts ? list(shown.facts) : []);

  offer('network', () => shownFacts(({ sites }) => [
    ...saving().chart('network-river', 'River and curves', 'network'),
    { title: 'Exact numbers of every layer', name: 'layers', rows: () => saving().objects(sites) },
  ]));
  offer('layers', () => shownFacts(({ sites }) => [{ title: 'Exact numbers of every layer', name: 'layers', rows: () => saving().objects(sites) }]));
  offer('checks', () => shownFacts(({ card: { checks, restored } }) => [
    { title: 'Faithfulness checks', name: 'checks', rows: () => saving().objects(checks) },
    ...(restored.length ? [{ title: 'Activation patching', name: 'restored', rows: () => saving().objects(restored) }] : []),
  ]));
  offer('case', () => shownFacts(({ inputs: strip }) => [
    { title: 'The pictures', name: 'case', picture: () => photographs(strip) },
    { title: 'Before and after', name: 'before-after', rows: () => saving().objects(strip.bars) },
  ]));

  const SIDE = 224;

  function photographs(strip) {
    const all = [['clean', 'Clean', strip.clean_text], ['adversarial', 'Adversarial', strip.adversarial_text],
      ['perturbation', `Perturbation × ${strip.amplification}`, strip.change]];
    const { canvas, loaded, colour } = saving();
    return canvas(all.length * (SIDE + 12), SIDE + 36, strip.title, async (pen) => {
      const images = await Promise.all(all.map(([name]) => loaded(strip[name])));
      images.forEach((image, k) => {
        pen.drawImage(image, k * (SIDE + 12), 0, SIDE, SIDE);
        pen.fillStyle = colour('text');
        pen.fillText(all[k][1], k * (SIDE + 12), SIDE + 16);
        pen.fillStyle = colour('muted');
        pen.fillText(all[k][2], k * (SIDE + 12), SIDE + 31, SIDE);
      });
    });
  }

  /* An answer without a key: nothing is to be shown. */
  function draw(answer) {
    const facts = answer.key ? answer : null;
    shown.facts = facts;
    inputs(facts);
    network(facts);
    card(facts);
    emit('network', facts);
  }

  /* Pixels that the page has for the river, by steps, so that few drawings of one view are asked for. */
  const STEP = 4;
  function room() {
    const frame = document.querySelector('.river-frame');
    return frame && frame.clientHeight ? Math.max(176, STEP * Math.floor(frame.clientHeight / STEP)) : 340;
  }

  panel('network', {
    draw,
    root: '#inputs-panel, #verdict, #network-panel, [data-drawer-part=checks], [data-drawer-part=layers]',
    of: ({ key, request, rival, arrived }, { versus, share, detail, lane, folded, theme }) => (
      { request, rival, versus, key, share, detail, lane, folded, theme, arrived, room: room(), width: breadth() }),
  });
  /* Another room is told once it rests. */
  const breadth = () => 100 * Math.floor((document.querySelector('.river-frame')?.clientWidth || 1080) / 100);

  let resized = null;
  const sized = new ResizeObserver(() => {
    window.clearTimeout(resized);
    resized = window.setTimeout(() => emit('room'), 250);
  });
  let isWatched = false;
  on('work', () => {
    const frame = document.querySelector('.river-frame');
    if (frame && !isWatched) { sized.observe(frame); }
    isWatched = Boolean(frame);
  });
  on('ask:layer', (ask) => {
    const layer = ask ? ask.layer : null;
    if (layer === shown.layer) { return; }
    shown.layer = layer;
    if (shown.facts) { siteTable(shown.facts); }
  });

  /* Why nothing is shown, with the advice as a button where it is one choice away. */
  function emptied(node, { title, text, other, button: label }) {
    const button = other ? make('button', { class: 'plain-button', 'data-term': 'outcome-select' }, label) : '';
    if (other) { button.addEventListener('click', () => pick({ outcome: other })); }
    node.replaceChildren(make('h2', {}, title), make('p', {}, text), button);
  }

  /* ---- what can be seen at this stage ---- */
  function panels(work) {
    if (!work) { return; }
    const before = document.body.dataset.stage;
    const isShown = Boolean(work.key);
    document.body.dataset.stage = work.empty ? 'empty' : isShown ? 'shown' : 'waiting';
    const empty = byId('empty-state');
    empty.hidden = !work.empty;
    if (work.empty) { emptied(empty, work.empty); }
    if (before !== document.body.dataset.stage) { window.dispatchEvent(new Event('resize')); }
  }

  on('work', panels);
})();
