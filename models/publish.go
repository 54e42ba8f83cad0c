package models

import "slices"

// publicRoles are what people publish to reach from anywhere (R13).
var publicRoles = []string{"proxy", "web-server", "app-server", "mail", "media", "vpn", "dns-server"}

// PublishOf is how far an entry's published port may reach: what the entry
// says, else what its kind does, else the narrowest that the model's roles do.
// It never returns PublishDefault.
func (m *Model) PublishOf(e *Entry) Publish {
	switch {
	case e.Publish != PublishDefault:
		return e.Publish
	case e.Kind == KindCluster:
		return PublishNone
	case e.Kind == KindAdmin || e.Kind == KindMetrics:
		return PublishHost
	}
	notPublic := func(role string) bool { return !slices.Contains(publicRoles, role) }
	if len(m.Roles) == 0 || slices.ContainsFunc(m.Roles, notPublic) {
		return PublishSite
	}
	return PublishAny
}
