/* What a control, column or chart means, in one sentence where it stands: under the pointer and where the keyboard is. */
(function () {
  'use strict';

  const TERMS = JSON.parse(document.querySelector('meta[name=terms]').content);
  const WAIT = 350;
  const EDGE = 8;
  const { make } = window.faultline;
  let shown = null;
  let timer = null;

  const bubble = () => document.getElementById('tip') || document.body.appendChild(make('div', { id: 'tip', role: 'tooltip', hidden: '' }));

  function hide() {
    window.clearTimeout(timer);
    if (shown) { shown.removeAttribute('aria-describedby'); }
    shown = null;
    bubble().hidden = true;
  }

  function show(node) {
    const text = TERMS[node.dataset.term];
    if (!text || !node.isConnected) { return; }
    hide();
    const tip = bubble();
    tip.textContent = text;
    tip.hidden = false;
    const box = node.getBoundingClientRect();
    const left = Math.min(window.innerWidth - tip.offsetWidth - EDGE, Math.max(EDGE, box.left));
    const isBelow = box.bottom + tip.offsetHeight + EDGE < window.innerHeight;
    Object.assign(tip.style, { left: `${left}px`, top: `${isBelow ? box.bottom + 4 : Math.max(EDGE, box.top - tip.offsetHeight - 4)}px` });
    // A control that is described already keeps its own description.
    if (!node.hasAttribute('aria-describedby')) { node.setAttribute('aria-describedby', 'tip'); shown = node; }
  }

  function over(event) {
    const node = event.target.closest?.('[data-term]');
    window.clearTimeout(timer);
    if (!node) { hide(); return; }
    // Pictures have words of their own under the pointer.
    if (event.target.closest('.tile, .thumbnail, .js-plotly-plot, .little')) { hide(); return; }
    timer = window.setTimeout(() => show(node), WAIT);
  }

  function focus(event) {
    const node = event.target.closest?.('[data-term]');
    if (node && event.target.matches(':focus-visible')) { show(node); } else { hide(); }
  }

  document.addEventListener('pointerover', over);
  document.addEventListener('pointerdown', hide);
  document.addEventListener('focusin', focus);
  document.addEventListener('focusout', hide);
  document.addEventListener('keydown', (event) => { if (event.key === 'Escape') { hide(); } });
  document.addEventListener('scroll', hide, true);
})();
