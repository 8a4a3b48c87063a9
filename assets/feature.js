/* The slow part of the neuron panel: asked for once a map has been looked at for a moment, again until it is made. */
(function () {
  'use strict';

  const { built, fill, onAsk, say } = window.faultline;
  const DWELL = 900;
  const AGAIN = 1000;
  let wanted = null;
  let timer = null;

  function ask(after) {
    window.clearTimeout(timer);
    timer = window.setTimeout(() => {
      if (wanted) { window.dash_clientside.set_props('feature-ask', { data: { ...wanted, t: Date.now() } }); }
    }, after);
  }

  onAsk('neuron', (next) => {
    const isOther = !next || !wanted || ['key', 'layer', 'channel'].some((name) => next[name] !== wanted[name]);
    wanted = next;
    if (isOther) {
      fill('feature');
      say('response-note', '');
    }
    if (next) { ask(DWELL); } else { window.clearTimeout(timer); }
  });

  function draw(facts) {
    if (!facts || !wanted) { return; }
    // A late answer belongs to a map that is no longer looked at.
    if (['key', 'layer', 'channel'].some((name, k) => wanted[name] !== facts.for[k])) { return; }
    fill('feature', ...facts.picture.map(built));
    say('response-note', facts.note);
    if (facts.again) { ask(AGAIN); }
  }

  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.feature = { draw };
})();
