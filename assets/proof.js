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

  function choose(text) {
    window.dash_clientside.set_props('pick', { data: { prove: text, t: Date.now() } });
  }

  /* Put these maps back, in the direction that is set. */
  function prove(text) {
    choose(`${isTurned() ? 'inject:' : ''}${text}`);
    byId('proof-panel').scrollIntoView({ block: 'nearest' });
  }

  const isTurned = () => byId('proof-turn').getAttribute('aria-pressed') === 'true';

  document.addEventListener('click', (event) => {
    const button = event.target.closest?.('[data-prove]');
    if (button) { prove(button.dataset.prove); }
    if (event.target.closest?.('#proof-turn')) {
      const now = ask.wanted && ask.wanted.prove;
      if (now) { choose(now.startsWith('inject:') ? now.slice('inject:'.length) : `inject:${now}`); }
      else { byId('proof-turn').setAttribute('aria-pressed', String(!isTurned())); }
    }
  });

  window.faultline.prove = prove;
  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.proof = { draw };
})();
