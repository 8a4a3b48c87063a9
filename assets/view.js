/* The page's state: one `view`, the same in the store and in the link. What is asked of the server follows from it. */
(function () {
  'use strict';

  /* The fields of a view, as the server has written them into the page. */
  const FIELDS = document.querySelector('meta[name=view-fields]').content.split(',');
  /* What links of older versions call a field. */
  const ALIASES = JSON.parse(document.querySelector('meta[name=view-aliases]').content);
  const CONTROLS = { 'detail-select': 'detail', 'theme-switch': 'theme' };
  /* What an examination depends on; the rest of a view only says how it is shown. */
  const EXAMINED = ['model', 'data', 'label', 'attack', 'epsilon', 'outcome', 'sample', 'method'];
  /* A choice that makes others meaningless clears them; the server then chooses anew. */
  const CLEARS = {
    model: ['channel', 'folded'], data: ['label', 'sample'], label: ['sample'], outcome: ['sample'],
    layer: ['channel'], run: ['role', 'attacks', 'classes', 'ended', 'within', 'under', 'status', 'into', 'find', 'order'],
    role: ['within'],
  };
  const { byId, doubt, emit, fill, isBelow, isGroup, make, on, panel, say, set, speak, want, wishes } = window.faultline;
  /* Changes that are no step: Back does not undo them. */
  const NO_STEP = ['theme'];
  const unchanged = () => window.dash_clientside.no_update;
  const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

  function parse(search) {
    const query = new URLSearchParams(search);
    Object.entries(ALIASES).forEach(([old, name]) => { if (query.has(old) && !query.has(name)) { query.set(name, query.get(old)); } });
    const view = { detail: 'blocks' };
    FIELDS.forEach((name) => { if (query.get(name)) { view[name] = query.get(name); } });
    // The levels ask with numbers; what is none is named by the server.
    ['share', 'channel'].forEach((name) => { if (/^\d+(\.\d+)?$/.test(view[name] || '')) { view[name] = Number(view[name]); } });
    view.theme = document.documentElement.dataset.theme;
    // A theme that there is not is named by the server, like every other value.
    if (query.get('theme')) { view.theme = query.get('theme'); }
    return view;
  }

  function address(view) {
    const query = new URLSearchParams();
    FIELDS.forEach((name) => {
      if (view[name] !== null && view[name] !== undefined && view[name] !== '') { query.set(name, view[name]); }
    });
    return window.location.pathname + '?' + query.toString().replaceAll('%2F', '/');
  }

  /* The last answer on the work, and whether it is to what is shown now. */
  let work = null;
  const isCurrent = (view) => Boolean(work && work.view && same(work.asked.view, view));

  const read = (field, value) => (field === 'theme' ? (value ? 'dark' : 'light') : value);

  function merge(base, changes, scales) {
    const next = { ...base };
    Object.keys(changes).forEach((field) => {
      (CLEARS[field] || []).forEach((name) => { next[name] = null; });
    });
    if (changes.attack && scales && scales[changes.attack] !== scales[base.attack]) { next.epsilon = null; }
    return { ...next, ...changes };
  }

  /* What the controls say differently from what is shown; a control that was just filled by the work says the same. */
  function changesOf(triggered, base) {
    const changes = {};
    triggered.forEach(({ prop_id, value }) => {
      const field = CONTROLS[prop_id.split('.')[0]];
      if (!field || value === null || value === undefined) { return; }
      const chosen = read(field, value);
      if (chosen !== (base[field] === undefined ? null : base[field])) { changes[field] = chosen; }
    });
    return changes;
  }

  /* The stages that are folded, as the link writes them, with one folded or unfolded. */
  function toggled(folded, stage) {
    const names = (folded || '').split(',').filter(Boolean);
    const next = names.includes(stage) ? names.filter((name) => name !== stage) : [...names, stage];
    return next.join(',') || null;
  }

  function picked(pick, base) {
    const changes = {};
    Object.keys(pick || {}).forEach((name) => {
      if (FIELDS.includes(name) && pick[name] !== base[name]) { changes[name] = pick[name]; }
    });
    if ('layer' in changes && 'channel' in (pick || {})) { changes.channel = pick.channel; }
    if (pick && pick.fold) { changes.folded = toggled(base.folded, pick.fold); }
    return changes;
  }

  function reduce(...inputs) {
    const view = inputs[inputs.length - 1];
    const context = window.dash_clientside.callback_context;
    const arrival = context.triggered_id === 'arrival' && inputs[0];
    if (!view || arrival) {
      const next = parse(window.location.search);
      look(next, inputs);
      if (view) { ahead(next); }
      looking.want({ view: next });
      return same(next, view) ? unchanged() : next;
    }
    const base = isCurrent(view) ? work.view : view;
    const isPick = context.triggered.some(({ prop_id }) => prop_id.startsWith('pick.'));
    const changes = isPick ? picked(inputs[1], base) : changesOf(context.triggered, base);
    if (!Object.keys(changes).length) { agree(view); return unchanged(); }
    const next = merge(base, changes, work && work.scales);
    if (Object.keys(changes).some((name) => !NO_STEP.includes(name))) {
      window.history.replaceState(place(), '', window.location.href);
      window.history.pushState(null, '', address(next));
    } else {
      window.history.replaceState(window.history.state, '', address(next));
    }
    look(next, inputs);
    ahead(next);
    looking.want({ view: next });
    return next;
  }

  /* What was last asked of each panel; one is asked again only for something else. */
  const asked = {};

  function ask(wanted) {
    Object.entries(wanted).forEach(([name, next]) => {
      if (same(next, asked[name] || null)) { return; }
      asked[name] = next;
      want(name, next);
    });
  }

  /* Another examination is drawn from the top: what lies below waits for the river, at most this many milliseconds. */
  const RIVER_FIRST = 400;
  let waiting = null;

  function drawn(wanted) {
    if (!waiting || (wanted && wanted !== waiting)) { return; }
    const next = waiting;
    waiting = null;
    ask(next);
  }

  /* While another view is worked on, the one before stays, veiled. */
  const isUnderWay = () => !work.key && !work.empty && asked.network;

  function split() {
    if (isUnderWay()) { return; }
    const next = wishes(work, work.view);
    const isOther = next.network && (!asked.network || asked.network.key !== next.network.key);
    if (!isOther) {
      waiting = null;
      ask(next);
      return;
    }
    const below = Object.fromEntries(Object.entries(next).filter(([name]) => isBelow(name)));
    waiting = below;
    ask(Object.fromEntries(Object.entries(next).filter(([name]) => !isBelow(name))));
    window.setTimeout(() => drawn(below), RIVER_FIRST);
  }

  /* A step within the examination that is shown needs no look at the work first: the levels are asked at once. */
  function ahead(next) {
    if (!work || !work.key || !work.view) { return; }
    if (EXAMINED.some((name) => next[name] !== work.view[name]) || !next.layer) { return; }
    const wanted = wishes(work, next);
    // The map to look at first in another layer is the server's choice.
    if (next.channel === null || next.channel === undefined) {
      delete wanted.neuron;
      doubt('neuron');
    }
    waiting = null;
    ask(wanted);
  }

  /* ---- what the controls say, in words, and whether the last answer is of that ---- */
  let saidOf = [];
  const examined = (view) => EXAMINED.map((name) => (view[name] === undefined ? null : view[name]));
  const isStated = (view) => Boolean(work && work.key && work.view
    && (same(examined(work.view), examined(view)) || same(examined(work.asked.view), examined(view))));

  function titleOf(name, value) {
    const options = ((work && work.menus && work.menus[name]) || { options: [] }).options;
    const option = options.flatMap((one) => one.items || [one]).find((one) => one.value === value);
    return option ? option.label : value;
  }

  function captions(view) {
    const { model, label, attack, epsilon, sample } = view;
    const parts = [label && `class ${label}`, attack && [titleOf('attack', attack), epsilon].filter(Boolean).join(' '),
      isGroup(sample) ? titleOf('sample', sample) : sample && `sample ${sample}`, model];
    return parts.filter(Boolean);
  }

  /* Only what differs is named. */
  function agree(view) {
    const isCurrent = isStated(view);
    if (isCurrent && work.view) { saidOf = captions(work.view); }
    const says = captions(view);
    const without = (parts, others) => parts.filter((part) => !others.includes(part)).join(', ');
    speak({ isCurrent, says: without(says, saidOf), shows: without(saidOf, says) });
    byId('cancel').hidden = isCurrent || !saidOf.length || !work || Boolean(work.empty);
  }

  /* ---- where the reader is: kept with each step of the history, and gone back to ---- */
  const SCROLLED = ['layer-tiles', 'inputs-panel', 'neuron-scroll', 'drawer-body'];
  const scrolled = (name) => byId(name) || document.querySelector(`.${name}`);
  let goal = null;

  function focused() {
    const node = document.activeElement;
    if (!node || node === document.body) { return null; }
    if (node.id) { return `#${CSS.escape(node.id)}`; }
    const name = ['data-channel', 'data-sample', 'data-tab', 'data-drawer', 'data-patch'].find((one) => node.hasAttribute(one));
    return name ? `[${name}="${CSS.escape(node.getAttribute(name))}"]` : null;
  }

  function place() {
    return { scrolls: SCROLLED.map((name) => (scrolled(name) || { scrollTop: 0 }).scrollTop), page: window.scrollY, focus: focused() };
  }

  function goTo() {
    if (!goal) { return; }
    SCROLLED.forEach((name, k) => { const node = scrolled(name); if (node) { node.scrollTop = goal.scrolls[k]; } });
    if (document.activeElement === document.body) { document.querySelector(goal.focus || '#none')?.focus({ preventScroll: true }); }
    goal = null;
  }

  function title(view) {
    const pages = { audits: 'Audits', models: 'Models and data' };
    const parts = pages[view.page] ? [pages[view.page]] : [captions(view).join(', '), view.layer && `${view.layer} channel ${view.channel}`];
    document.title = [...parts.filter(Boolean), 'Faultline'].join(' · ');
  }

  /* Seconds that the work still takes at the rate it had so far; nothing where that is not known. */
  const rate = { text: '', done: 0, start: 0 };

  function remaining({ text, done, total, is_working: isWorking }) {
    const kind = text.replace(/[\d ]+of[\d ]+$/, '');
    if (!isWorking) { rate.text = ''; return ''; }
    if (rate.text !== kind || done < rate.done) { Object.assign(rate, { text: kind, done, start: performance.now() }); }
    const elapsed = (performance.now() - rate.start) / 1000;
    const made = done - rate.done;
    if (!total || made < 1) { return elapsed > 2 ? `${Math.round(elapsed)} s so far` : ''; }
    return `about ${Math.max(1, Math.round(elapsed * (total - done) / made))} s left`;
  }

  const known = { theme: null };

  function status() {
    const { text, done, total, is_working: isWorking, can_retry: canRetry } = work.progress;
    const share = total ? 100 * done / total : 100;
    const bar = byId('progress');
    say('counts', work.counts);
    say('status', text);
    evidence();
    say('remaining', remaining(work.progress));
    say('notices', work.notices.join(' '));
    bar.className = isWorking ? (total ? 'progress' : 'progress waiting') : 'progress resting';
    bar.style.setProperty('--share', `${share}%`);
    bar.setAttribute('aria-valuenow', Math.round(share));
    byId('retry').hidden = !canRetry;
  }

  /* One answer on the work: everything on the page that follows from it. */
  function follow(answer) {
    work = answer;
    status();
    emit('work', work);
    if (!work.view) { return; }
    window.history.replaceState(window.history.state, '', address(work.view));
    title(work.view);
    if (work.menus.model) { emit('menus', work.menus); }
    agree(work.view);
    split();
    if (goal && work.key) { window.setTimeout(goTo, 400); }
  }

  /* The work is looked at again while it goes on; a look that is lost is taken again. */
  const looking = panel('work', { draw: follow, lost: 15000 });

  /* The newest view, and the wait for the server's word on it. */
  let latest = null;
  const PATIENCE = 3000;
  let silence = null;

  function listen(view) {
    latest = view;
    window.clearTimeout(silence);
    silence = window.setTimeout(() => { if (!isCurrent(view)) { say('status', 'Waiting for the server …'); } }, PATIENCE);
  }

  /* What the view itself sets, where a control does not say it already. */
  function look(view, inputs) {
    listen(view);
    const chosen = view.theme === 'dark' ? 'dark' : 'light';
    const detail = view.detail === 'sites' ? 'sites' : 'blocks';
    const [shownDetail, isDark] = inputs.slice(-3, -1);
    if (known.theme !== chosen) { set('mantine', { forceColorScheme: chosen }); }
    if (Boolean(isDark) !== (chosen === 'dark')) { set('theme-switch', { checked: chosen === 'dark' }); }
    if (shownDetail !== detail) { set('detail-select', { value: detail }); }
    emit('view', view);
    agree(view);
    known.theme = chosen;
    document.documentElement.dataset.theme = chosen;
    try {
      window.localStorage.setItem('faultline-theme', chosen);
    } catch (error) {
      /* Storage may be switched off; the link still carries the theme. */
    }
  }

  on('river', () => drawn());
  // An answer that is still to come asks by itself; what it will be of is not what was shown.
  on('room', () => { if (latest && isCurrent(latest) && work.key) { ask(wishes(work, work.view)); } });
  // What a menu says counts from the moment it says so, before the page has made a view of it.
  document.addEventListener('change', (event) => { if (event.target.matches?.('.filters select.menu')) { speak({ isCurrent: false, says: 'another choice' }); } });
  document.addEventListener('click', (event) => {
    if (event.target.closest?.('#retry')) { looking.again(); }
    if (event.target.closest?.('#cancel')) { window.history.back(); }
    const button = event.target.closest?.('#copy-link');
    if (button) { copy(button, citation().text); }
    const proof = event.target.closest?.('#copy-evidence');
    if (proof) { copy(proof, `${citation().text}\n${citation().evidence}`); }
  });

  /* ---- what is put into reports: the view in words, its evidence, the day, and the address ---- */
  const HASH = 12;
  const day = () => new Date().toISOString().slice(0, 16).replace('T', ' ');

  function citation() {
    const view = (work && work.view) || {};
    const layer = view.layer && `${view.layer}${view.channel === null || view.channel === undefined ? '' : ` channel ${view.channel}`}`;
    const parts = [...captions(view), layer, work && work.key && `evidence ${work.key.slice(0, HASH)}`, `${day()} UTC`];
    const line = `Faultline: ${parts.filter(Boolean).join(', ')}`;
    return { line, text: `${line}\n${window.location.href}`, evidence: ((work && work.evidence) || []).map(([name, value]) => `${name}: ${value}`).join('\n') };
  }

  async function copy(button, text) {
    const label = button.querySelector('span:not(.icon)') || button;
    const before = label.dataset.label || label.textContent;
    label.dataset.label = before;
    try {
      await navigator.clipboard.writeText(text);
      label.textContent = 'Copied';
    } catch (error) {
      label.textContent = 'Copying is not allowed here';
    }
    window.setTimeout(() => { label.textContent = before; }, 2500);
  }

  let told = null;
  function evidence() {
    if (same(told, work.evidence)) { return; }
    told = work.evidence;
    fill('evidence', ...work.evidence.map(([name, value]) => make('div', {}, make('dt', {}, name), make('dd', {}, value))));
  }

  window.faultline.citation = citation;

  /* On paper: what is shown, its evidence and the day at the top, and at the foot of every page where the browser can.
     Only for paper: another style sheet costs the page a look at every element. */
  function sign() {
    const { line } = citation();
    say('print-line', `${line}, ${window.location.href}`);
    let style = byId('print-style');
    if (!style) { style = document.head.appendChild(make('style', { id: 'print-style' })); }
    const text = line.replace(/[\\"\n]/g, ' ');
    style.textContent = `@page { @bottom-left { content: "${text}"; font: 9px sans-serif; color: #555; } @bottom-right { content: counter(page) " / " counter(pages); font: 9px sans-serif; color: #555; } }`;
  }

  window.addEventListener('beforeprint', sign);

  window.addEventListener('popstate', (event) => {
    goal = event.state;
    // An answer on the view that was left must not be written over the address that was gone back to.
    looking.forget();
    set('arrival', { data: { t: Date.now() } });
  });
  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.view = { reduce };
})();
