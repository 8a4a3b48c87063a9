/* The one way the scripts, the page and the server talk: events, choices, and panels that ask. */
(function () {
  'use strict';

  const set = (id, properties) => window.dash_clientside.set_props(id, properties);

  /* ---- events: `view` (another view), `work` (an answer on it), `menus`, `ask:NAME`, `network`, `river`, `tiles`, ... ---- */
  const listeners = {};

  function on(event, listener) { (listeners[event] = listeners[event] || []).push(listener); }

  function emit(event, value) { (listeners[event] || []).forEach((listener) => listener(value)); }

  /* Choose something else: fields of the view, or what view.js makes of it. */
  function pick(changes) { set('pick', { data: { ...changes, t: Date.now() } }); }

  /* ---- panels, by the names that dashboard/protocol.py knows ---- */
  const panels = {};

  function send(own) {
    window.clearTimeout(own.timer);
    set(`${own.name}-ask`, { data: own.wanted && { ...own.wanted, t: Date.now() } });
    if (own.lost && own.wanted) { later(own, own.lost); }
  }

  function later(own, milliseconds) {
    window.clearTimeout(own.timer);
    own.timer = window.setTimeout(() => { if (own.wanted) { send(own); } }, milliseconds);
  }

  /* A wish replaces the one before. `null` wishes for nothing: the panel clears itself, or is told what then stands there. */
  function want(own, next) {
    window.clearTimeout(own.timer);
    own.wanted = next;
    own.isDoubtful = false;
    emit(`ask:${own.name}`, next);
    if (!next) { own.shown = null; }
    judge(own);
    if (!next && own.clear) { own.clear(); return; }
    if (next && own.wait) { later(own, own.wait); } else { send(own); }
  }

  const written = (value) => JSON.stringify(value === undefined ? null : value);

  /* Whether an answer is to what is wished for now: a late one belongs to something that is no longer looked at. */
  function isWanted(own, asked, by = own.by) {
    if (!own.wanted || !asked) { return !own.wanted && !asked; }
    const names = by || Object.keys({ ...own.wanted, ...asked }).filter((name) => name !== 't');
    return names.every((name) => written(own.wanted[name]) === written(asked[name]));
  }

  /* ---- what is shown and what the controls say ----
     Every panel carries the key of what it shows (`data-key`). Where that is not what the controls say it is veiled
     (`data-veil`): `other` shows something else, `none` has nothing to show yet. Both say so in words. */
  const EVIDENCE = ['key', 'layer', 'channel', 'share', 'patch', 'study', 'versus'];
  let subject = { isCurrent: false, says: '', shows: '' };

  function veilOf(own) {
    if (!own.wanted && !own.shown) { return subject.isCurrent || !own.of ? null : 'none'; }
    if (!own.shown) { return 'none'; }
    if (own.isDoubtful) { return 'other'; }
    if (subject.isCurrent && isWanted(own, own.shown, EVIDENCE)) { return null; }
    return 'other';
  }

  function judge(own) {
    if (!own.root) { return; }
    const veil = veilOf(own);
    const text = !veil ? '' : [veil === 'other' && subject.shows ? `Still showing ${subject.shows}.` : '',
      subject.says ? `The controls say ${subject.says}: loading …` : 'Loading …'].filter(Boolean).join(' ');
    document.querySelectorAll(own.root).forEach((node) => {
      node.dataset.key = EVIDENCE.map((name) => own.shown && own.shown[name]).filter((part) => part || part === 0).join(' ');
      if (veil) { node.dataset.veil = veil; } else { delete node.dataset.veil; }
      let words = node.querySelector(':scope > .veil');
      if (!words) { words = node.appendChild(window.faultline.make('p', { class: 'veil', role: 'note' })); }
      if (words.textContent !== text) { words.textContent = text; }
      node.setAttribute('aria-busy', String(Boolean(veil)));
    });
  }

  /* What the controls say: whether the last answer on the work is of that, in words, and what is still shown instead. */
  function speak(next) {
    subject = { ...subject, ...next };
    Object.values(panels).forEach(judge);
  }

  function answered(facts) {
    const own = facts && panels[facts.panel];
    if (!own || !isWanted(own, facts.asked)) { return; }
    const { wanted } = own;
    window.clearTimeout(own.timer);
    own.draw(facts, wanted);
    own.shown = facts.asked;
    own.isDoubtful = false;
    judge(own);
    if (facts.after !== null && wanted && own.wanted === wanted) { later(own, facts.after); }
  }

  /* What the panels of the view ask when `shown` is the view: by name, `null` for nothing. */
  function wishes(work, shown) {
    const following = Object.values(panels).filter((own) => own.of).sort((a, b) => a.level - b.level);
    return Object.fromEntries(following.map((own) => [own.name, work.key ? own.of(work, shown) : null]));
  }

  /* `draw` puts an answer on the page. `of` makes the wish of a panel that follows the view, `level` says when it is asked:
     1 with the river, 2 and 3 once the river of another examination is drawn. `clear` empties the panel where nothing is
     wished for. `wait`: milliseconds that a wish must last before it is asked. `lost`: after as many without an
     answer it is asked again. `by`: the fields in which answer and wish
     must agree, by default all of them. `root`: selector of the elements that show what it answers; they are
     veiled while that is not what the controls say. */
  function panel(name, { draw, of = null, level = 1, clear = null, wait = 0, lost = 0, by = null, root = null }) {
    const own = { name, draw, of, level, clear, wait, lost, by, root, wanted: null, timer: null, shown: undefined };
    panels[name] = own;
    return {
      get wanted() { return own.wanted; },
      want: (next) => want(own, next),
      again: (milliseconds) => { if (milliseconds) { later(own, milliseconds); } else if (own.wanted) { send(own); } },
      forget() { own.wanted = null; window.clearTimeout(own.timer); },
    };
  }

  /* A panel of the run that the audits page shows, asked anew with every choice of these fields of the view. `section` is the id
     of the element around it, hidden where there is no such run. */
  function runPanel(name, { fields, section, draw, ...rest }) {
    const { byId } = window.faultline;
    let view = {};
    let run = null;
    const own = panel(name, {
      ...rest,
      draw: (facts, wanted) => {
        byId(section).hidden = false;
        byId(section).removeAttribute('aria-busy');
        draw(facts, wanted);
      },
    });

    function ask() {
      const node = byId(section);
      if (view.page !== 'audits' || !run) {
        own.forget();
        if (node) { node.hidden = true; }
        return;
      }
      const chosen = Object.fromEntries(fields.map((field) => [field, view[field] || null]));
      const next = { run, theme: view.theme || 'light', ...chosen };
      if (written(next) === written(own.wanted)) { return; }
      // What still stands there is of another choice until the answer comes.
      node.setAttribute('aria-busy', 'true');
      own.want(next);
    }

    on('view', (next) => {
      if (next.run && next.run !== view.run) { run = next.run; }
      view = next;
      ask();
    });
    // A link that names no run shows the newest one: the list says which.
    on('run', (next) => { if (next !== run) { run = next; ask(); } });
    // What a damaged file kept from being shown can be shown now; whoever said so has its answer already.
    on('rebuilt', () => { if (name !== 'rebuild') { own.again(); } });
    return own;
  }

  /* The server is there again: what is wished for and not shown is asked for once more. */
  on('connected', () => Object.values(panels).forEach((own) => { if (own.wanted && (!own.shown || !isWanted(own, own.shown))) { send(own); } }));

  /* Something else was chosen, and what that means for a panel is the server's word: until then it is covered. */
  function doubt(name) {
    panels[name].isDoubtful = true;
    judge(panels[name]);
  }

  const wantOf = (name, next) => want(panels[name], next);
  const isBelow = (name) => panels[name].level > 1;

  Object.assign(window.faultline, { set, on, emit, pick, panel, runPanel, wishes, isBelow, speak, doubt, want: wantOf });
  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.panel = { answered };
})();
