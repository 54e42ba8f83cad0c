package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// event is one line of the engine's /events, in the order in which the engine
// sent it.
type event struct {
	Type   string
	Action string
	Actor  struct {
		ID         string
		Attributes map[string]string
	}
}

// eventFilter names what the watcher acts on; health checks and execs, of which
// there are many, stay with the engine.
var eventFilter = map[string][]string{
	"type": {"container", "network", "image", "service", "node", "daemon"},
	"event": {
		"create", "start", "die", "destroy", "rename", "connect", "disconnect", "remove", "update", "reload",
		"pull", "tag", "untag", "delete", "load", "import",
	},
}

// subscribe opens the stream of events; from its return on none is missed.
func (w *Watcher) subscribe(ctx context.Context) (io.ReadCloser, error) {
	filter, err := json.Marshal(eventFilter)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.base+"/events?filters="+url.QueryEscape(string(filter)), nil)
	if err != nil {
		return nil, err
	}
	resp, err := w.events.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
		resp.Body.Close()
		return nil, fmt.Errorf("events: %s: %s", resp.Status, text)
	}
	return resp.Body, nil
}

// readEvents passes events on in their order until the stream ends, and returns
// why. A slow reader holds the stream back; it loses nothing here.
func readEvents(ctx context.Context, stream io.Reader, to chan<- event) error {
	lines := json.NewDecoder(stream)
	for {
		var e event
		if err := lines.Decode(&e); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return errors.New("the engine closed the stream of events")
			}
			return fmt.Errorf("events: %w", err)
		}
		select {
		case to <- e:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
