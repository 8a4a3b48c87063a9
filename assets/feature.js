/* The slow part of the neuron panel: asked for once a map has been looked at for a moment, again until it is made. */
(function () {
  'use strict';

  const { built, fill, on, panel, say } = window.faultline;
  const NAMES = ['key', 'layer', 'channel'];

  function draw(facts) {
    fill('feature', ...facts.picture.map(built));
    say('response-note', facts.note);
  }

  function clear() {
    fill('feature');
    say('response-note', '');
  }

  const feature = panel('feature', { draw, clear, wait: 900, by: NAMES, root: '[data-tab-part=feature], [data-tab-part=growth]' });

  on('ask:neuron', (next) => {
    if (next && feature.wanted && NAMES.some((name) => next[name] !== feature.wanted[name])) { clear(); }
    feature.want(next);
  });
})();
