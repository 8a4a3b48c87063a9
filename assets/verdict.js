/* The verdict bar: what happened, where it takes hold, what restores it, how the checks ended, and what to do next. Only what is held looks like a claim. */
(function () {
  'use strict';

  const { byId, make, on, pick } = window.faultline;
  /* Letters from which on even the loudest line is set smaller. */
  const LONG = 40;
  const MARKS = { fact: '', held: '✔', refuted: '✘', open: '?' };
  const SAID = { fact: '', held: 'supported', refuted: 'not supported', open: 'not decided yet' };

  function claim({ title, state, text, detail }, k) {
    const mark = MARKS[state] ? make('span', { class: 'mark', 'aria-hidden': 'true' }, MARKS[state]) : null;
    const state_ = SAID[state] ? make('span', { class: 'state' }, SAID[state]) : null;
    return make('div', { class: `claim-cell is-${state}`, 'data-term': `verdict-${state}`, tabindex: '0', role: 'group', 'aria-label': title },
      make('h2', {}, title, mark, state_),
      make('p', { id: k === 0 ? 'headline' : null, class: text.length > LONG ? 'is-long' : null }, text, detail ? make('span', { class: 'detail' }, ` ${detail}`) : null));
  }

  /* Back leads to the view before, since each step is a choice like any other. */
  function next({ step }) {
    const button = step ? make('button', { class: 'step-button', 'data-term': 'verdict-step' }, step.text) : make('p', { class: 'step-wait' }, 'Checks still run.');
    if (step) { button.addEventListener('click', () => pick(step.pick)); }
    return make('div', { class: 'claim-cell step-cell' }, make('h2', {}, 'What to do next'), button);
  }

  const count = (number, look, mark, word) => (number
    ? make('span', { class: `check-count is-${look}` }, make('span', { 'aria-hidden': 'true' }, mark), ` ${number} ${word} `) : '');

  function checks({ held, failed, undecided, against }) {
    const button = make('button', { class: 'checks-button', 'data-term': 'verdict-checks', title: against || null },
      count(held, 'held', '✔', held === 1 ? 'holds' : 'hold'), count(failed, 'refuted', '✘', failed === 1 ? 'fails' : 'fail'),
      count(undecided, 'open', '?', 'not decided'));
    button.addEventListener('click', () => pick({ drawer: 'checks' }));
    return make('div', { class: 'claim-cell checks-cell' }, make('h2', {}, 'Checks'), button);
  }

  function draw(facts) {
    // What else stands in the bar keeps its place, and the keyboard in it.
    byId('verdict').querySelectorAll(':scope > .claim-cell').forEach((cell) => cell.remove());
    if (facts) { byId('verdict').prepend(...facts.verdict.claims.map(claim), checks(facts.verdict), next(facts.verdict)); }
  }

  on('network', draw);
})();
