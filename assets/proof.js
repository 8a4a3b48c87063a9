/* The proof panel: what was chosen goes into the link; the answer is asked for until it is there. */
(function () {
  'use strict';

  const { built, byId, fill, onAsk } = window.faultline;
  const AGAIN = 700;
  let wanted = null;
  let timer = null;

  function ask(after) {
    window.clearTimeout(timer);
    timer = window.setTimeout(() => {
      if (wanted) { window.dash_clientside.set_props('proof-ask', { data: { ...wanted, t: Date.now() } }); }
    }, after);
  }

  onAsk('proof', (next) => {
    wanted = next;
    document.querySelectorAll('[data-prove]').forEach((button) => {
      const isChosen = Boolean(next && next.prove) && next.prove.replace('inject:', '') === button.dataset.prove;
      button.setAttribute('aria-pressed', String(isChosen));
    });
    byId('proof-turn').setAttribute('aria-pressed', String(Boolean(next && next.prove && next.prove.startsWith('inject:'))));
    if (!next || !next.prove) { window.clearTimeout(timer); fill('proof'); return; }
    ask(0);
  });

  function draw(facts) {
    if (!facts || !wanted || facts.for[0] !== wanted.key || facts.for[1] !== wanted.prove) { return; }
    fill('proof', ...facts.proof.map(built));
    if (facts.again) { ask(AGAIN); }
  }

  function choose(text) {
    window.dash_clientside.set_props('pick', { data: { prove: text, t: Date.now() } });
  }

  const isTurned = () => byId('proof-turn').getAttribute('aria-pressed') === 'true';

  document.addEventListener('click', (event) => {
    const button = event.target.closest?.('[data-prove]');
    if (button) {
      choose(`${isTurned() ? 'inject:' : ''}${button.dataset.prove}`);
      byId('proof-panel').scrollIntoView({ block: 'nearest' });
    }
    if (event.target.closest?.('#proof-turn')) {
      const now = wanted && wanted.prove;
      if (now) { choose(now.startsWith('inject:') ? now.slice('inject:'.length) : `inject:${now}`); }
      else { byId('proof-turn').setAttribute('aria-pressed', String(!isTurned())); }
    }
  });

  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.proof = { draw };
})();
