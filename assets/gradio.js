/* All that the scripts know of Gradio's own markup (6.31); its style sheet is gradio.css. */
const GRADIO = {
  page: '.gradio-container',
  openSidebar: '.sidebar.open .toggle-button, .sidebar.open button',
  // Buttons beside the message, which Gradio gives no names.
  unnamed: {'.submit-button': 'Send', '.stop-button': 'Stop'},
  send: '.submit-button',
  stop: '.stop-button',
  toasts: '.toast-wrap',
  asks: '/queue/join', // an event is asked for here
  hears: '/queue/data', // and told of here
  names: /"event_id":"(\w+)"/g, // the event that something is told of
  ends: '"msg":"close_stream"', // the last that is told
};
