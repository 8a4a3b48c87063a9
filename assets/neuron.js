/* The neuron panel: its card, patches and neighbours from one store of plain values; side and order stay in the browser. */
(function () {
  'use strict';

  const { built, byId, fill, say } = window.faultline;
  const drawn = { facts: null, style: null };
  const unchanged = () => window.dash_clientside.no_update;

  function show(facts) {
    say('neuron-title', facts ? facts.title : '');
    const message = byId('neuron-message');
    message.hidden = !facts || !facts.message;
    message.textContent = facts ? facts.message : '';
    byId('neuron-body').classList.toggle('unchosen', !facts || Boolean(facts.message));
    fill('neuron-card', ...(facts ? facts.card.map(built) : []));
  }

  /* Only a new theme needs a new style: reading one costs more than placing twenty nodes. */
  function styleOf(facts) {
    const written = JSON.stringify(facts.stylesheet);
    if (!facts.stylesheet.length || written === drawn.style) { return unchanged(); }
    drawn.style = written;
    return facts.stylesheet;
  }

  function draw(facts, order, side) {
    if (!facts) { return [unchanged(), unchanged()]; }
    const isNew = facts !== drawn.facts;
    drawn.facts = facts;
    if (isNew) { show(facts); }
    fill('neuron-gallery', ...((facts.patches[order] || []).map(built)));
    const near = facts.neighbours[side] || { elements: [], list: [] };
    fill('neighbourhood-list', ...near.list.map(built));
    return [near.elements, styleOf(facts)];
  }

  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.neuron = { draw };
})();
