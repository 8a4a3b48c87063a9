/* The slow part of the neuron panel: asked for once a map has been looked at for a moment, again until it is made. */
(function () {
  'use strict';

  const { built, fill, onAsk, say } = window.faultline;
  const DWELL = 900;
  const AGAIN = 1000;
  const NAMES = ['key', 'layer', 'channel'];
  const ask = window.faultline.asking('feature-ask');

  onAsk('neuron', (next) => {
    if (!next || !ask.wanted || NAMES.some((name) => next[name] !== ask.wanted[name])) {
      fill('feature');
      say('response-note', '');
    }
    ask.want(next);
    if (next) { ask.after(DWELL); }
  });

  function draw(facts) {
    if (!facts || !ask.wanted) { return; }
    // A late answer belongs to a map that is no longer looked at.
    if (NAMES.some((name, k) => ask.wanted[name] !== facts.for[k])) { return; }
    fill('feature', ...facts.picture.map(built));
    say('response-note', facts.note);
    if (facts.again) { ask.after(AGAIN); }
  }

  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.feature = { draw };
})();
