/* How the page is arranged: the drawer at the foot, the tabs of the neuron panel, the levels of a narrow window, the case column. */
(function () {
  'use strict';

  const { byId, emit, on, pick } = window.faultline;
  const NARROW = window.matchMedia('(max-width: 1179px), (max-height: 619px)');
  const shown = { drawer: null, tab: 'patches', level: 'layer' };
  const each = (selector, act) => document.querySelectorAll(selector).forEach(act);

  /* A link of before this drawer opens the part that it asks something of. */
  const wanted = ({ drawer, patch, study }) => (drawer === 'closed' ? null : drawer || (study ? 'study' : patch ? 'test' : null));

  function arrange(view) {
    if (!document.body.dataset.level) { level(shown.level); }
    const drawer = wanted(view);
    if (drawer !== shown.drawer) { open(drawer); }
    if ((view.tab || 'patches') !== shown.tab || !document.querySelector('[data-tab][aria-selected=true]')) { turn(view.tab || 'patches'); }
  }

  function open(drawer) {
    shown.drawer = drawer;
    document.body.classList.toggle('has-drawer', Boolean(drawer));
    each('[data-drawer]', (button) => button.setAttribute('aria-expanded', String(button.dataset.drawer === drawer)));
    each('[data-drawer-part]', (part) => part.classList.toggle('is-open', part.dataset.drawerPart === drawer));
    // A plot that was drawn while it was hidden has no width.
    window.dispatchEvent(new Event('resize'));
  }

  function turn(tab) {
    shown.tab = tab;
    each('[data-tab]', (button) => {
      button.setAttribute('aria-selected', String(button.dataset.tab === tab));
      button.tabIndex = button.dataset.tab === tab ? 0 : -1;
    });
    each('[data-tab-part]', (part) => part.classList.toggle('is-open', part.dataset.tabPart === tab));
    emit('tab', tab);
  }

  /* ---- narrow windows show one level at a time ---- */
  function level(name) {
    shown.level = name;
    document.body.dataset.level = name;
    each('button[data-level]', (button) => button.setAttribute('aria-selected', String(button.dataset.level === name)));
  }

  function click(event) {
    const drawer = event.target.closest?.('[data-drawer]');
    if (drawer) { pick({ drawer: shown.drawer === drawer.dataset.drawer ? 'closed' : drawer.dataset.drawer }); }
    const tab = event.target.closest?.('[data-tab]');
    if (tab) { pick({ tab: tab.dataset.tab }); }
    const chosen = event.target.closest?.('button[data-level]');
    if (chosen) { level(chosen.dataset.level); }
    if (event.target.closest?.('#network-river') && NARROW.matches) { level('layer'); }
    if (event.target.closest?.('#layer-tiles .tile') && NARROW.matches) { level('neuron'); }
    if (event.target.closest?.('#case-toggle')) { fold(!document.body.classList.contains('is-case-open')); }
    // What was clicked may have been drawn anew by now, so the way of the event is asked.
    each('details.more[open]', (more) => { if (!event.composedPath().includes(more)) { more.open = false; } });
  }

  function fold(isOpen) {
    document.body.classList.toggle('is-case-open', isOpen);
    byId('case-toggle').setAttribute('aria-expanded', String(isOpen));
  }

  /* Arrow keys walk the tabs; Escape closes what lies over the page, and hands the keyboard back to what opened it. */
  function key(event) {
    const tab = event.target.closest?.('[role=tab]');
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (tab && by) {
      const tabs = [...tab.parentElement.querySelectorAll('[role=tab]')];
      const next = tabs[(tabs.indexOf(tab) + by + tabs.length) % tabs.length];
      next.focus();
      next.click();
      event.preventDefault();
    }
    if (event.key !== 'Escape' || document.body.classList.contains('is-choosing')) { return; }
    const more = document.querySelector('details.more[open]');
    if (more) { more.open = false; more.querySelector('summary').focus(); return; }
    if (document.body.classList.contains('is-case-open')) { fold(false); byId('case-toggle').focus(); return; }
    if (shown.drawer && event.target.closest?.('#drawer')) {
      document.querySelector(`[data-drawer=${shown.drawer}]`)?.focus();
      pick({ drawer: 'closed' });
    }
  }

  document.addEventListener('click', click);
  document.addEventListener('keydown', key);
  on('view', arrange);
})();
