/* The causal test panel: what was chosen goes into the link; the answer is asked for until it is there. */
(function () {
  'use strict';

  const { built, byId, fill, on, panel, pick } = window.faultline;

  function draw(facts) { fill('causal-test', ...facts['causal-test'].map(built)); }

  const test = panel('causal-test', {
    draw,
    root: '[data-drawer-part=test]',
    clear: () => fill('causal-test'),
    of: ({ key }, { patch, share }) => (patch ? { key, share, patch } : null),
  });

  on('ask:causal-test', (next) => {
    document.querySelectorAll('[data-patch]').forEach((button) => {
      const isChosen = Boolean(next) && next.patch.replace('inject:', '') === button.dataset.patch;
      button.setAttribute('aria-pressed', String(isChosen));
    });
    byId('causal-test-direction').setAttribute('aria-pressed', String(Boolean(next && next.patch.startsWith('inject:'))));
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
    root: '[data-drawer-part=study]',
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

  /* Patch these channels, in the direction that is set. */
  function patch(text) {
    pick({ patch: `${isTurned() ? 'inject:' : ''}${text}`, drawer: 'test' });
  }

  const isTurned = () => byId('causal-test-direction').getAttribute('aria-pressed') === 'true';

  document.addEventListener('click', (event) => {
    const button = event.target.closest?.('[data-patch]');
    if (button) { patch(button.dataset.patch); }
    const asked = event.target.closest?.('[data-study]');
    if (asked) {
      const isOpen = study.wanted && study.wanted.study === asked.dataset.study;
      pick({ study: isOpen ? null : asked.dataset.study, drawer: 'study' });
    }
    if (event.target.closest?.('#causal-test-direction')) {
      const now = test.wanted && test.wanted.patch;
      if (now) { pick({ patch: now.startsWith('inject:') ? now.slice('inject:'.length) : `inject:${now}` }); }
      else { byId('causal-test-direction').setAttribute('aria-pressed', String(!isTurned())); }
    }
  });

  on('patch', patch);

  const saving = () => window.faultline.saving;
  window.faultline.offer('test', () => [
    ...saving().table('#causal-test .causal-test-table:not(.members-table)', 'Causal test', 'causal-test'),
    ...saving().table('#causal-test .members-table', 'Image by image', 'images'),
  ]);
  window.faultline.offer('study', () => [
    ...(byId('study-plot').hidden ? [] : saving().chart('study-figure', 'Plot of the study', 'study')),
    ...saving().table('#study-tables table', 'Table of the study', 'study-table'),
  ]);
})();
