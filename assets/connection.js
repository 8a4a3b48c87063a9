/* Whether the server answers: every request is listened to; a lost one is said on the page, and the server is tried again. */
(function () {
  'use strict';

  const { byId, emit, make } = window.faultline;
  const original = window.fetch.bind(window);
  const FIRST_WAIT = 1000;
  const LONGEST_WAIT = 8000;
  /* A request that takes longer says so; work itself is asked for in short requests. */
  const PATIENCE = 15000;
  const TEXTS = {
    lost: 'Not connected to the server. Panels that do not show what the controls say are covered; trying again by itself.',
    locked: 'You are not logged in any more. Open a new link (python -m dashboard --new-link), then reload this page.',
    refused: 'The server could not answer this. Its log says why; trying again may help.',
    slow: 'The server takes long to answer.',
  };
  const state = { now: 'well', wait: FIRST_WAIT, timer: null };

  function turn(next) {
    if (state.now === next) { return; }
    const before = state.now;
    state.now = next;
    document.body.dataset.connection = next;
    show();
    if (next === 'well' && before !== 'slow') { emit('connected'); }
    emit('connection', next);
  }

  function show() {
    const banner = byId('connection');
    if (!banner) { return; }
    banner.hidden = state.now === 'well';
    if (banner.hidden) { banner.replaceChildren(); return; }
    const button = make('button', { class: 'plain-button', 'data-term': 'retry' }, 'Try now');
    button.addEventListener('click', () => { state.wait = FIRST_WAIT; ping(); });
    banner.replaceChildren(make('span', {}, TEXTS[state.now]), button);
  }

  async function ping() {
    window.clearTimeout(state.timer);
    try {
      const answer = await original('/health', { cache: 'no-store' });
      if (answer.ok) { state.wait = FIRST_WAIT; turn('well'); return; }
    } catch (error) { /* Still away: tried again below. */ }
    state.wait = Math.min(LONGEST_WAIT, 2 * state.wait);
    state.timer = window.setTimeout(ping, state.wait);
  }

  function lose() {
    if (state.now === 'lost') { return; }
    turn('lost');
    state.timer = window.setTimeout(ping, state.wait);
  }

  function hear(status) {
    if (status === 401 || status === 403) { turn('locked'); }
    else if ([502, 503, 504].includes(status)) { lose(); }
    else if (status >= 500) { turn('refused'); }
    else if (state.now !== 'lost') { turn('well'); }
    else { ping(); }
  }

  window.fetch = async (...request) => {
    const slow = window.setTimeout(() => { if (state.now === 'well') { turn('slow'); } }, PATIENCE);
    try {
      const answer = await original(...request);
      hear(answer.status);
      return answer;
    } catch (error) {
      if (error.name !== 'AbortError') { lose(); }
      throw error;
    } finally {
      window.clearTimeout(slow);
    }
  };
  window.addEventListener('offline', lose);
  window.addEventListener('online', ping);
})();
