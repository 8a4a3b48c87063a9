/* The tour: six steps at the first visit, and again whenever it is asked for. Nothing is covered and nothing is waited for. */
(function () {
  'use strict';

  const { byId, make, on } = window.faultline;
  const STEPS = JSON.parse(document.querySelector('meta[name=tour]').content);
  const SEEN = 'faultline-tour';
  const EDGE = 12;
  /* In a narrow window these are shown one at a time. */
  const LEVELS = { '.layer-panel': 'layer', '.neuron-panel': 'neuron' };
  const state = { at: -1, back: null };

  function isSeen() {
    try { return Boolean(window.localStorage.getItem(SEEN)); } catch (error) { return true; }
  }

  function remember() {
    try { window.localStorage.setItem(SEEN, 'done'); } catch (error) { /* Storage may be switched off; then it is not shown by itself. */ }
  }

  const card = () => byId('tour-card');

  function begin() {
    if (card()) { return; }
    state.back = document.activeElement;
    document.body.append(
      make('div', { id: 'tour-frame', 'aria-hidden': 'true' }),
      make('div', { id: 'tour-card', role: 'dialog', 'aria-labelledby': 'tour-title', 'aria-describedby': 'tour-text', tabindex: '-1' }));
    go(0);
  }

  function end() {
    remember();
    state.at = -1;
    ['tour-card', 'tour-frame'].forEach((id) => byId(id)?.remove());
    if (state.back?.isConnected && state.back !== document.body) { state.back.focus({ preventScroll: true }); } else { byId('tour')?.focus({ preventScroll: true }); }
  }

  function button(text, act, look = 'plain-button') {
    const node = make('button', { class: look, type: 'button' }, text);
    node.addEventListener('click', act);
    return node;
  }

  function go(to) {
    state.at = to;
    const { target, title, text } = STEPS[to];
    const isLast = to === STEPS.length - 1;
    if (LEVELS[target]) { document.querySelector(`button[data-level=${LEVELS[target]}]`)?.click(); }
    const next = button(isLast ? 'Done' : 'Next', isLast ? end : () => go(to + 1), 'plain-button is-first');
    const words = isLast ? make('a', { href: '/help', target: '_blank' }, 'All words and readings') : '';
    card().replaceChildren(
      make('p', { class: 'note' }, `Step ${to + 1} of ${STEPS.length}`),
      make('h2', { id: 'tour-title' }, title), make('p', { id: 'tour-text' }, text, ' ', words),
      make('div', { class: 'button-row' }, button('Skip', end), to ? button('Back', () => go(to - 1)) : '', next));
    place();
    next.focus({ preventScroll: true });
  }

  /* The card stands beside what it speaks of: below it, else above it, else within it. */
  function place() {
    if (!card()) { return; }
    const box = document.querySelector(STEPS[state.at].target)?.getBoundingClientRect();
    const frame = byId('tour-frame');
    frame.hidden = !box || !box.width;
    if (frame.hidden) { Object.assign(card().style, { left: `${(window.innerWidth - card().offsetWidth) / 2}px`, top: '30%' }); return; }
    Object.assign(frame.style, { left: `${box.left - 3}px`, top: `${box.top - 3}px`, width: `${box.width + 6}px`, height: `${box.height + 6}px` });
    const { offsetWidth: width, offsetHeight: height } = card();
    const within = (value, most) => Math.max(EDGE, Math.min(value, most - EDGE));
    const top = box.bottom + height + 2 * EDGE < window.innerHeight ? box.bottom + EDGE
      : box.top - height - EDGE > EDGE ? box.top - height - EDGE : box.bottom - height - EDGE;
    Object.assign(card().style, { left: `${within(box.left + EDGE, window.innerWidth - width)}px`, top: `${within(top, window.innerHeight - height)}px` });
  }

  /* The keyboard stays within the card while it is there; the arrow keys step. */
  function key(event) {
    if (!card()) { return; }
    if (event.key === 'Escape') { event.stopPropagation(); end(); return; }
    if (!card().contains(document.activeElement)) { return; }
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step && STEPS[state.at + step]) { event.stopPropagation(); event.preventDefault(); go(state.at + step); }
    if (event.key !== 'Tab') { return; }
    const stops = [...card().querySelectorAll('button, a')];
    const at = stops.indexOf(document.activeElement) + (event.shiftKey ? -1 : 1);
    event.preventDefault();
    stops[(at + stops.length) % stops.length].focus();
  }

  let isOffered = false;
  on('network', (facts) => {
    if (!facts || isOffered) { return; }
    isOffered = true;
    if (!isSeen() && document.body.dataset.page === 'explain') { begin(); }
  });
  document.addEventListener('click', (event) => { if (event.target.closest?.('#tour')) { begin(); } });
  window.addEventListener('keydown', key, true);
  window.addEventListener('resize', place);
  on('river', place);
})();
