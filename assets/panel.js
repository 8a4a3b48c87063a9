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
    emit(`ask:${own.name}`, next);
    if (!next && own.clear) { own.clear(); return; }
    if (next && own.wait) { later(own, own.wait); } else { send(own); }
  }

  const written = (value) => JSON.stringify(value === undefined ? null : value);

  /* Whether an answer is to what is wished for now: a late one belongs to something that is no longer looked at. */
  function isWanted(own, asked) {
    if (!own.wanted || !asked) { return !own.wanted && !asked; }
    const names = own.by || Object.keys({ ...own.wanted, ...asked }).filter((name) => name !== 't');
    return names.every((name) => written(own.wanted[name]) === written(asked[name]));
  }

  function answered(facts) {
    const own = facts && panels[facts.panel];
    if (!own || !isWanted(own, facts.asked)) { return; }
    const { wanted } = own;
    window.clearTimeout(own.timer);
    own.draw(facts, wanted);
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
     must agree, by default all of them. */
  function panel(name, { draw, of = null, level = 1, clear = null, wait = 0, lost = 0, by = null }) {
    const own = { name, draw, of, level, clear, wait, lost, by, wanted: null, timer: null };
    panels[name] = own;
    return {
      get wanted() { return own.wanted; },
      want: (next) => want(own, next),
      again: (milliseconds) => { if (milliseconds) { later(own, milliseconds); } else if (own.wanted) { send(own); } },
      forget() { own.wanted = null; window.clearTimeout(own.timer); },
    };
  }

  const wantOf = (name, next) => want(panels[name], next);
  const isBelow = (name) => panels[name].level > 1;

  Object.assign(window.faultline, { set, on, emit, pick, panel, wishes, isBelow, want: wantOf });
  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.panel = { answered };
})();
