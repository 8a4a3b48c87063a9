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
    layer: ['channel'],
  };
  const { byId, emit, isBelow, on, panel, say, set, want, wishes } = window.faultline;
  const unchanged = () => window.dash_clientside.no_update;
  const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

  function parse(search) {
    const query = new URLSearchParams(search);
    Object.entries(ALIASES).forEach(([old, name]) => { if (query.has(old) && !query.has(name)) { query.set(name, query.get(old)); } });
    const view = { detail: 'blocks' };
    FIELDS.forEach((name) => { if (query.get(name)) { view[name] = query.get(name); } });
    view.theme = document.documentElement.dataset.theme;
    if (query.get('theme') === 'light' || query.get('theme') === 'dark') { view.theme = query.get('theme'); }
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
      if (same(next, view)) { looking.want({ view }); return unchanged(); }
      look(next, inputs);
      looking.want({ view: next });
      return next;
    }
    const base = isCurrent(view) ? work.view : view;
    const isPick = context.triggered.some(({ prop_id }) => prop_id.startsWith('pick.'));
    const changes = isPick ? picked(inputs[1], base) : changesOf(context.triggered, base);
    if (!Object.keys(changes).length) { return unchanged(); }
    const next = merge(base, changes, work && work.scales);
    const isStep = 'page' in changes || 'layer' in changes || 'channel' in changes || ('sample' in changes && !inputs[1].isFilter);
    window.history[isStep ? 'pushState' : 'replaceState'](null, '', address(next));
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

  function split() {
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
    if (next.channel === null || next.channel === undefined) { delete wanted.neuron; }
    waiting = null;
    ask(wanted);
  }

  const known = { theme: null };

  function status() {
    const { text, done, total, is_working: isWorking, can_retry: canRetry } = work.progress;
    const share = total ? 100 * done / total : 100;
    const bar = byId('progress');
    say('counts', work.counts);
    say('status', text);
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
    window.history.replaceState(null, '', address(work.view));
    split();
    if (work.menus.model) { emit('menus', work.menus); }
  }

  /* The work is looked at again while it goes on; a look that is lost is taken again. */
  const looking = panel('work', { draw: follow, lost: 15000 });

  /* What the view itself sets, where a control does not say it already. */
  function look(view, inputs) {
    const chosen = view.theme === 'dark' ? 'dark' : 'light';
    const detail = view.detail === 'sites' ? 'sites' : 'blocks';
    const [shownDetail, isDark] = inputs.slice(-3, -1);
    if (known.theme !== chosen) { set('mantine', { forceColorScheme: chosen }); }
    if (Boolean(isDark) !== (chosen === 'dark')) { set('theme-switch', { checked: chosen === 'dark' }); }
    if (shownDetail !== detail) { set('detail-select', { value: detail }); }
    emit('view', view);
    known.theme = chosen;
    document.documentElement.dataset.theme = chosen;
    try {
      window.localStorage.setItem('faultline-theme', chosen);
    } catch (error) {
      /* Storage may be switched off; the link still carries the theme. */
    }
  }

  on('river', () => drawn());
  document.addEventListener('click', (event) => { if (event.target.closest?.('#retry')) { looking.again(); } });
  window.addEventListener('popstate', () => {
    // An answer on the view that was left must not be written over the address that was gone back to.
    looking.forget();
    set('arrival', { data: { t: Date.now() } });
  });
  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.view = { reduce };
})();
