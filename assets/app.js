/* What the pages do by themselves. The server hears only what was decided. */
window.cl = (() => {
  const one = (selector, within = document) => within.querySelector(selector);

  /* Act once the element is there. */
  const when = (selector, act, patience = 60000) => {
    const began = Date.now();
    const look = setInterval(() => {
      const found = one(selector);
      if (found || Date.now() - began > patience) clearInterval(look);
      if (found) act(found);
    }, 40);
  };

  const message = () => one('#composer textarea');
  const write = (box, text) => {
    box.value = text;
    box.dispatchEvent(new Event('input', {bubbles: true}));
  };

  /* -- the message that is being written ----------------------------------------------------- */

  let pressed = null, sent = '', opening = null, isHeld = false;
  /* Another chat was asked for: it is there before anything is said, lest that be said in the old one. */
  const open = (event) => {
    if (opening || !event.target.closest('#new-chat, #hist [data-act=open]')) return;
    opening = setTimeout(opened, 10000);
    if (event.target.closest('#new-chat') && innerWidth >= 768) setTimeout(() => message()?.focus(), 0);
  };
  const opened = () => {
    clearTimeout(opening);
    opening = null;
    if (isHeld) one(`#composer ${GRADIO.send}`)?.click();
    isHeld = false;
  };
  document.addEventListener('click', open, true);
  /* Gradio reads the box a moment after Enter: what a quick person types until then is not meant. */
  const press = (event) => {
    const isEnter = event.key === 'Enter' && !event.shiftKey && !event.isComposing;
    if (!isEnter && !event.target.closest?.(GRADIO.send)) return;
    if (!opening) { pressed = message().value; return; }
    event.preventDefault();
    event.stopImmediatePropagation();
    isHeld = true;
  };
  /* It leaves the box; what was typed behind it stays, and is the next one. */
  const send = (values) => {
    sent = pressed ?? values[0];
    pressed = null;
    const box = message();
    if (box) write(box, box.value.startsWith(sent) ? box.value.slice(sent.length) : '');
    return [sent, ...values.slice(1)];
  };
  /* It was refused: back into the box. */
  const giveBack = () => { if (message()) write(message(), sent + message().value); };
  /* What was being written when the session ended. */
  const draft = () => {
    const kept = sessionStorage.getItem('draft');
    sessionStorage.removeItem('draft');
    if (kept && message() && !message().value) write(message(), kept);
  };
  /* The panel takes room from the chat: the answer that was just rated must not vanish behind it. */
  const keepInSight = () => {
    const rated = document.activeElement;
    setTimeout(() => rated?.closest('#chat') && rated.scrollIntoView({block: 'end'}), 200);
  };
  /* A long example leaves the page scrolled down; the next one starts at its top. */
  const toTop = (selector) => setTimeout(() => {
    const top = one(selector);
    if (top?.getBoundingClientRect().top < 0) top.scrollIntoView();
  }, 200);

  /* -- lists --------------------------------------------------------------------------------- */

  /* Buttons and forms with data-act tell the server what was pressed, and on what. */
  const acts = (element, trigger) => {
    element.addEventListener('click', (event) => {
      const button = event.target.closest('button[data-act]');
      if (button) trigger('select', {...button.dataset});
    });
    element.addEventListener('submit', (event) => {
      const form = event.target.closest('form[data-act]');
      if (!form) return;
      event.preventDefault();
      trigger('select', {...form.dataset, ...Object.fromEntries(new FormData(form))});
    });
  };

  /* The list of chats: asking back and writing a name happen here. */
  const history = (element, trigger) => {
    const parts = (item) => ['.name', 'form', '.sure'].map((part) => one(part, item));
    const show = (item, which) => {
      parts(item).forEach((part, i) => { part.hidden = i !== which; });
      item.querySelectorAll('.tool').forEach((tool) => { tool.hidden = which > 0; });
    };
    element.addEventListener('click', (event) => {
      const button = event.target.closest('button[data-act]');
      if (!button) return;
      const item = button.closest('li'), act = button.dataset.act, [name, form, sure] = parts(item);
      if (act === 'edit') { show(item, 1); form.firstElementChild.select(); }
      else if (act === 'ask') { show(item, 2); one('[data-act=keep]', sure).focus(); }
      else if (act === 'keep') { show(item, 0); name.focus(); }
      else trigger('select', {id: item.dataset.id, act});
    });
    element.addEventListener('submit', (event) => {
      event.preventDefault();
      const item = event.target.closest('li'), title = event.target.firstElementChild.value;
      show(item, 0);
      trigger('select', {id: item.dataset.id, act: 'rename', title});
    });
    element.addEventListener('keydown', (event) => {
      const item = event.key === 'Escape' && event.target.closest('li');
      if (item) { event.stopPropagation(); show(item, 0); parts(item)[0].focus(); }
    });
  };

  /* -- the dialog ---------------------------------------------------------------------------- */

  /* It takes the focus when it opens, keeps it, and gives it back to what was pressed. */
  const watchDialog = (page) => {
    let pressed = null, opener = null, isOpen = false;
    const dialog = () => { const found = one('#dialog'); return found?.checkVisibility() ? found : null; };
    const stops = () => [...dialog().querySelectorAll('input, textarea, button')]
      .filter((stop) => stop.checkVisibility() && !stop.disabled);
    /* What was pressed, or what stands in its place after the list was drawn anew. */
    const back = () => {
      if (opener?.isConnected) return opener;
      if (opener?.id) return document.getElementById(opener.id);
      const same = (b) => ['act', 'name'].every((key) => b.dataset[key] === opener?.dataset[key]);
      return opener?.dataset.act ? [...page.querySelectorAll('button[data-act]')].find(same) : null;
    };
    page.addEventListener('click', (event) => {
      const button = event.target.closest('button');
      if (button && !button.closest('#dialog')) pressed = button;
    }, true);
    const look = () => {
      const found = dialog();
      if (Boolean(found) === isOpen) return;
      isOpen = Boolean(found);
      if (!isOpen) { setTimeout(() => back()?.focus(), 0); return; }
      opener = pressed;
      Object.entries({role: 'dialog', 'aria-modal': 'true', 'aria-labelledby': 'dialog-title'})
        .forEach(([name, value]) => found.setAttribute(name, value));
      setTimeout(() => isOpen && stops()[0]?.focus(), 0);
    };
    new MutationObserver(look).observe(page, {
      childList: true, subtree: true, attributes: true, attributeFilter: ['class', 'style', 'hidden'],
    });
    document.addEventListener('keydown', (event) => {
      if (!isOpen || !dialog()) return;
      if (event.key === 'Escape') { event.preventDefault(); one('#dialog-no').click(); }
      if (event.key !== 'Tab') return;
      const all = stops(), at = all.indexOf(document.activeElement);
      const next = (at + (event.shiftKey ? -1 : 1) + all.length) % all.length;
      event.preventDefault();
      all[next].focus();
    });
  };
  when('#admin', watchDialog);

  /* -- what goes on while nobody looks ------------------------------------------------------- */

  /* Nothing is asked of the server while nothing happens: who comes back is shown what did. */
  document.addEventListener('visibilitychange', () => {
    if (!document.hidden) one('#refresh')?.click();
  });

  /* Gradio asks for an event on one connection and hears of all events on another, which the server
     closes when nothing is pending. Asked for in that moment, an event whose answer is told too early is
     waited for at the closed connection, for ever; told too late, a connection is opened to hear of what
     is over. So the end of a connection and the answers wait for each other: an event that this
     connection has told of is answered before its end, any other after it. */
  const pause = (moment) => new Promise((go) => setTimeout(go, moment));
  const events = new Set(), connections = new Set();
  const until = async (holds) => {
    for (const end = Date.now() + 3000; !holds() && Date.now() < end;) await pause(5);
  };
  const hear = (answer) => {
    const reader = answer.body.getReader(), words = new TextDecoder(), told = new Set();
    let text = '';
    const over = () => connections.delete(told);
    const pull = async (given) => {
      const {done, value} = await reader.read().catch((problem) => { over(); return unlessLeaving(problem); });
      if (done) { setTimeout(over, 50); given.close(); return; }
      text = text.slice(-100) + words.decode(value, {stream: true});
      for (const [, id] of text.matchAll(GRADIO.names)) told.add(id);
      if (text.includes(GRADIO.ends)) {
        await until(() => [...events].every((event) => event.id && !told.has(event.id)));
      }
      given.enqueue(value);
    };
    connections.add(told);
    return new Response(new ReadableStream({
      pull, cancel: (reason) => { over(); return reader.cancel(reason); },
    }), answer);
  };
  const ask = async (event, answer) => {
    const told = await answer.json();
    event.id = told.event_id;
    await until(() => !connections.size || [...connections].some((one) => one.has(event.id)));
    const given = Response.json(told, answer);
    given.json = async () => { setTimeout(() => events.delete(event), 0); return told; };
    return given;
  };

  /* Who leaves a page hangs up: that is no fault to complain of. */
  let leaving = false;
  addEventListener('beforeunload', () => {
    leaving = true;
    setTimeout(() => { leaving = false; }, 2000); // whoever is still here stayed
  });
  const unlessLeaving = async (problem) => {
    await pause(0); // Gradio hangs up first
    return leaving ? new Promise(() => {}) : Promise.reject(problem);
  };

  const plain = window.fetch;
  window.fetch = async (...request) => {
    const address = String(request[0].url ?? request[0]), event = {id: ''};
    if (address.includes(GRADIO.asks)) events.add(event);
    const answer = await plain(...request).catch((problem) => {
      events.delete(event);
      return unlessLeaving(problem);
    });
    /* An expired session: go and sign in, keeping the text that was being written. */
    if (answer.status === 401 && !location.pathname.startsWith('/signin')) {
      if (message()?.value) sessionStorage.setItem('draft', message().value);
      location.href = '/signin';
    }
    if (answer.ok && address.includes(GRADIO.hears)) return hear(answer);
    if (answer.ok && events.has(event)) return ask(event, answer);
    events.delete(event);
    return answer;
  };

  /* -- the look ------------------------------------------------------------------------------ */

  /* Dark and light: the system's choice, until a person chooses. */
  const apply = (theme) => document.body.classList.toggle('dark', theme === 'dark');
  const switchTheme = () => {
    const theme = document.body.classList.contains('dark') ? 'light' : 'dark';
    localStorage.setItem('theme', theme);
    apply(theme);
  };
  const chosen = localStorage.getItem('theme');
  if (chosen) when(GRADIO.page, () => apply(chosen));

  /* On a phone the list of chats starts closed. */
  if (innerWidth < 768) when(GRADIO.openSidebar, (button) => button.click(), 8000);

  when('#composer', (composer) => {
    composer.addEventListener('keydown', press, true);
    composer.addEventListener('click', press, true);
    const tell = () => Object.entries(GRADIO.unnamed).forEach(([kind, name]) => {
      composer.querySelectorAll(`${kind}:not([aria-label])`).forEach((b) => { b.ariaLabel = name; });
    });
    new MutationObserver(tell).observe(composer, {childList: true, subtree: true});
    tell();
  });

  document.addEventListener('keydown', (event) => {
    if ((event.ctrlKey || event.metaKey) && event.shiftKey && event.key.toLowerCase() === 'o') {
      event.preventDefault();
      one('#new-chat')?.click();
    }
    if (event.key === 'Escape') one(`#composer button${GRADIO.stop}`)?.click();
  });

  return {acts, draft, giveBack, history, keepInSight, opened, send, switchTheme, toTop};
})();
