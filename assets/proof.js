/* The proof panel: what was chosen goes into the link; the answer is asked for until it is there. */
(function () {
  'use strict';

  const { built, byId, fill, on, panel, pick } = window.faultline;

  function draw(facts) { fill('proof', ...facts.proof.map(built)); }

  const proof = panel('proof', {
    draw,
    clear: () => fill('proof'),
    of: ({ key }, { prove, share }) => (prove ? { key, share, prove } : null),
  });

  on('ask:proof', (next) => {
    document.querySelectorAll('[data-prove]').forEach((button) => {
      const isChosen = Boolean(next) && next.prove.replace('inject:', '') === button.dataset.prove;
      button.setAttribute('aria-pressed', String(isChosen));
    });
    byId('proof-turn').setAttribute('aria-pressed', String(Boolean(next && next.prove.startsWith('inject:'))));
  });

  /* ---- what all fooled images of the class say together ---- */
  function clear() {
    fill('study');
    fill('study-tables');
    byId('study-plot').hidden = true;
  }

  function drawStudy(facts) {
    fill('study', ...facts.text.map(built));
    fill('study-tables', ...facts.tables.map(built));
    const plot = byId('study-plot');
    if (plot.hidden === facts.plot) {
      plot.hidden = !facts.plot;
      // A plot that was drawn while it was hidden has no width.
      window.dispatchEvent(new Event('resize'));
    }
  }

  let shown = null;
  const study = panel('study', {
    draw: drawStudy,
    clear,
    of: ({ key }, { study: name, theme }) => (name ? { key, study: name, theme } : null),
  });

  on('ask:study', (next) => {
    document.querySelectorAll('[data-study]').forEach((button) => {
      button.setAttribute('aria-pressed', String(Boolean(next) && next.study === button.dataset.study));
    });
    const name = next && `${next.key} ${next.study}`;
    if (name !== shown) { clear(); }
    shown = name;
  });

  /* Put these maps back, in the direction that is set. */
  function prove(text) {
    pick({ prove: `${isTurned() ? 'inject:' : ''}${text}` });
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
      pick({ study: isOpen ? null : asked.dataset.study });
    }
    if (event.target.closest?.('#proof-turn')) {
      const now = proof.wanted && proof.wanted.prove;
      if (now) { pick({ prove: now.startsWith('inject:') ? now.slice('inject:'.length) : `inject:${now}` }); }
      else { byId('proof-turn').setAttribute('aria-pressed', String(!isTurned())); }
    }
  });

  on('prove', prove);
})();
