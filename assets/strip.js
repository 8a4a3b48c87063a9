/* The strip of samples: what the sample menu offers, as pictures to move through. Loaded once the river stands. */
(function () {
  'use strict';

  const { byId, fill, isGroup, make, on, pick } = window.faultline;
  const MOST = 24;
  const WAIT = 600;
  let shown = '';
  let timer = null;

  /* The samples around the chosen one, as many as one picture may hold. */
  function around(samples, chosen) {
    const at = Math.max(0, samples.findIndex(({ value }) => value === chosen));
    const first = Math.max(0, Math.min(at - MOST / 2, samples.length - MOST));
    return samples.slice(first, first + MOST);
  }

  function button({ value, label }, k, count, address) {
    const place = count > 1 ? `${100 * k / (count - 1)}% 0` : '0 0';
    const node = make('button', { class: 'thumbnail', 'data-sample': value, title: label, 'aria-label': `Sample ${label}`,
      style: { backgroundImage: `url("${address}")`, backgroundSize: `${100 * count}% 100%`, backgroundPosition: place } });
    node.addEventListener('click', () => pick({ sample: value }));
    return node;
  }

  function step(samples, chosen, by, text) {
    const at = samples.findIndex(({ value }) => value === chosen) + by;
    const node = make('button', { class: 'plain-button', 'aria-label': `${text} sample` }, by < 0 ? '‹' : '›');
    node.disabled = !samples[at];
    node.addEventListener('click', () => pick({ sample: samples[at].value }));
    return node;
  }

  function draw(samples, chosen, data) {
    const near = around(samples, chosen);
    const address = `/media/strip/${encodeURIComponent(data)}/${near.map(({ value }) => encodeURIComponent(value)).join(',')}.png`;
    const one = JSON.stringify([near, chosen, data]);
    if (one === shown) { return; }
    shown = one;
    const focused = document.activeElement?.closest?.('#sample-strip') ? document.activeElement.getAttribute('aria-label') : null;
    const strip = byId('sample-strip');
    strip.replaceChildren(step(samples, chosen, -1, 'Previous'), ...near.map((sample, k) => button(sample, k, near.length, address)),
      step(samples, chosen, 1, 'Next'),
      make('span', { class: 'note' }, near.length < samples.length ? `${near.length} of ${samples.length} shown` : ''));
    const thumbnails = [...strip.querySelectorAll('.thumbnail')];
    const current = thumbnails.find((node) => node.dataset.sample === chosen);
    current?.setAttribute('aria-current', 'true');
    // One stop for the Tab key; arrow keys move among the pictures.
    thumbnails.forEach((node) => { node.tabIndex = node === (current || thumbnails[0]) ? 0 : -1; });
    if (focused) { strip.querySelector(`[aria-label="${CSS.escape(focused)}"]`)?.focus(); }
  }

  document.addEventListener('keydown', (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const node = event.target.closest?.('#sample-strip .thumbnail');
    if (!by || !node) { return; }
    const thumbnails = [...document.querySelectorAll('#sample-strip .thumbnail')];
    const next = thumbnails[thumbnails.indexOf(node) + by];
    if (!next) { return; }
    event.preventDefault();
    thumbnails.forEach((one) => { one.tabIndex = one === next ? 0 : -1; });
    next.focus();
  });

  /* One image, or which of them together: as many as there are, by what they became. */
  function choose(groups, samples, value) {
    const button = (title, wanted, isOn) => {
      const node = make('button', { class: 'plain-button', 'aria-pressed': String(isOn) }, title);
      node.addEventListener('click', () => pick({ sample: wanted }));
      return node;
    };
    const said = byId('scope').querySelector('p') || make('p', { class: 'note', role: 'status' });
    fill('scope', ...(groups.length ? [button('One image', isGroup(value) ? samples[0].value : value, !isGroup(value)),
      ...groups.map((one) => button(one.label.replace(/ together$/, ''), one.value, one.value === value))] : []), said);
  }

  /* A group's members stand in the inputs already; one sample alone needs no strip. */
  function show(menus) {
    const { options, value } = menus.sample;
    const samples = options.filter((option) => !isGroup(option.value));
    window.clearTimeout(timer);
    choose(options.filter((option) => isGroup(option.value)), samples, value);
    byId('sample-strip').hidden = isGroup(value) || samples.length < 2;
    if (!byId('sample-strip').hidden) { timer = window.setTimeout(() => draw(samples, value, menus.data.value), WAIT); }
  }

  on('menus', show);
  on('work', (work) => { const said = byId('scope').querySelector('p'); if (said) { said.textContent = work.scope; } });
})();
