/* The proof panel: what was chosen goes into the link; the answer is asked for until it is there. */
(function () {
  'use strict';

  const { built, byId, fill, onAsk } = window.faultline;
  const AGAIN = 700;
  const ask = window.faultline.asking('proof-ask');

  onAsk('proof', (next) => {
    ask.want(next && next.prove ? next : null);
    document.querySelectorAll('[data-prove]').forEach((button) => {
      const isChosen = Boolean(next && next.prove) && next.prove.replace('inject:', '') === button.dataset.prove;
      button.setAttribute('aria-pressed', String(isChosen));
    });
    byId('proof-turn').setAttribute('aria-pressed', String(Boolean(next && next.prove && next.prove.startsWith('inject:'))));
    if (!ask.wanted) { fill('proof'); return; }
    ask.after(0);
  });

  function draw(facts) {
    if (!facts || !ask.wanted || facts.for[0] !== ask.wanted.key || facts.for[1] !== ask.wanted.prove) { return; }
    fill('proof', ...facts.proof.map(built));
    if (facts.again) { ask.after(AGAIN); }
  }

  /* ---- what all fooled images of the class say together ---- */
  const study = window.faultline.asking('study-ask');

  onAsk('study', (next) => {
    const isOther = !next || !study.wanted || next.key !== study.wanted.key || next.study !== study.wanted.study;
    study.want(next);
    document.querySelectorAll('[data-study]').forEach((button) => {
      button.setAttribute('aria-pressed', String(Boolean(next) && next.study === button.dataset.study));
    });
    if (isOther) { clear(); }
    if (next) { study.after(0); }
  });

  function clear() {
    fill('study');
    fill('study-tables');
    byId('study-plot').hidden = true;
  }

  function drawStudy(facts) {
    const wanted = study.wanted;
    if (!facts || !wanted || [wanted.key, wanted.study, wanted.theme].some((value, k) => value !== facts.for[k])) { return; }
    fill('study', ...facts.text.map(built));
    fill('study-tables', ...facts.tables.map(built));
    const plot = byId('study-plot');
    if (plot.hidden === facts.plot) {
      plot.hidden = !facts.plot;
      // A plot that was drawn while it was hidden has no width.
      window.dispatchEvent(new Event('resize'));
    }
    if (facts.again) { study.after(AGAIN); }
  }

  function choose(text) {
    window.dash_clientside.set_props('pick', { data: { prove: text, t: Date.now() } });
  }

  /* Put these maps back, in the direction that is set. */
  function prove(text) {
    choose(`${isTurned() ? 'inject:' : ''}${text}`);
    const panel = byId('proof-panel');
    // The answer stands below the title and is yet to come: room for it is made where it was asked for elsewhere.
    if (!panel.contains(document.activeElement)) { panel.scrollIntoView({ block: 'start' }); }
  }

  const isTurned = () => byId('proof-turn').getAttribute('aria-pressed') === 'true';

  document.addEventListener('click', (event) => {
    const button = event.target.closest?.('[data-prove]');
    if (button) { prove(button.dataset.prove); }
    const asked = event.target.closest?.('[data-study]');
    if (asked) {
      const isOpen = study.wanted && study.wanted.study === asked.dataset.study;
      window.dash_clientside.set_props('pick', { data: { study: isOpen ? null : asked.dataset.study, t: Date.now() } });
    }
    if (event.target.closest?.('#proof-turn')) {
      const now = ask.wanted && ask.wanted.prove;
      if (now) { choose(now.startsWith('inject:') ? now.slice('inject:'.length) : `inject:${now}`); }
      else { byId('proof-turn').setAttribute('aria-pressed', String(!isTurned())); }
    }
  });

  window.faultline.prove = prove;
  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.proof = { draw, study: drawStudy };
})();
