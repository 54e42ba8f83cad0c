package main

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/smtp"
	"net/textproto"
	"strings"
	"testing"
	"time"
)

// liveMail: Postfix takes mail from outside and from an application that proves
// who it is to Dovecot by way of Postfix; what is for this domain goes to Dovecot
// by LMTP and is read by IMAP, what is not goes to the MX of its domain.
func liveMail(t *testing.T, o *outside) *ensemble {
	needImages(t, "boky/postfix:3", "dovecot/dovecot:2.3")
	e := newEnsemble(t, "ghe-mail", 25, 587, 143, 24, 12345)
	e.add(t, play{service: "dovecot", image: "dovecot/dovecot:2.3"})
	postfix := e.add(t, play{service: "postfix", image: "boky/postfix:3", options: []string{"-p", "25", "--dns", o.far[4].String()},
		labels: []string{"gatehouse.model=postfix"}})
	webmail := e.add(t, play{service: "webmail", env: []string{"SMTP_HOST=postfix", "SMTP_PORT=587", "IMAP_HOST=dovecot"}})
	door, _, _ := strings.Cut(mustRun(t, "docker", "port", postfix.name, "25/tcp"), "\n")
	_, door, _ = strings.Cut(door, ":")
	far := serveSMTP(t, o)

	becomes(t, "mail from outside", func() (string, error) {
		return "sent", sendMail(o.netns, net.JoinHostPort(o.own[4].String(), door), "", "stranger@far.example", "ada@example.com", "from outside")
	}, holds("sent"))
	for _, family := range []int{4, 6} {
		at := port(postfix.leg().at(family), 587).String()
		for _, to := range []string{"ada@example.com", "bob@static.names.example"} {
			text := fmt.Sprintf("IPv%d to %s", family, to)
			becomes(t, text, func() (string, error) {
				return "sent", sendMail(webmail.netns, at, "ada@example.com", "ada@example.com", to, text)
			}, holds("sent"))
		}
	}
	for _, family := range []int{4, 6} {
		dovecot := port(e.members["ghe-mail-dovecot-1"].leg().at(family), 143).String()
		becomes(t, "the mailbox by IMAP", func() (string, error) { return readMail(webmail.netns, dovecot, "ada@example.com") }, func(said string) bool {
			return strings.Contains(said, "from outside") && strings.Contains(said, "IPv4 to ada") && strings.Contains(said, "IPv6 to ada")
		})
	}
	for range 2 {
		select {
		case text := <-far:
			if !strings.Contains(text, "to bob@static.names.example") {
				t.Errorf("the far server was given %q", text)
			}
		case <-time.After(livePatience):
			t.Fatal("mail for another domain does not come to its server")
		}
	}
	return e
}

// sendMail gives one mail to a server; user, if there is one, says who it is.
func sendMail(netns, at, user, from, to, text string) error {
	conn, err := dial(netns, "tcp", at, 3*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	c, err := smtp.NewClient(conn, "mail.example.com")
	if err != nil {
		return err
	}
	if err := c.Hello("client.example"); err != nil {
		return err
	}
	if user != "" {
		secret := base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00secret"))
		id, err := c.Text.Cmd("AUTH PLAIN %s", secret)
		if err != nil {
			return err
		}
		c.Text.StartResponse(id)
		_, _, err = c.Text.ReadResponse(235)
		c.Text.EndResponse(id)
		if err != nil {
			return err
		}
	}
	if err := c.Mail(from); err != nil {
		return err
	}
	if err := c.Rcpt(to); err != nil {
		return err
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(w, "From: %s\r\nTo: %s\r\nSubject: test\r\n\r\n%s\r\n", from, to, text); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return c.Quit()
}

// readMail fetches all that is in a mailbox.
func readMail(netns, at, user string) (string, error) {
	conn, err := dial(netns, "tcp", at, 3*time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	lines := bufio.NewReader(conn)
	if _, err := lines.ReadString('\n'); err != nil { // the greeting
		return "", err
	}
	var all strings.Builder
	for i, order := range []string{"LOGIN " + user + " secret", "SELECT INBOX", "FETCH 1:* BODY[TEXT]", "LOGOUT"} {
		tag := fmt.Sprintf("t%d ", i)
		if _, err := io.WriteString(conn, tag+order+"\r\n"); err != nil {
			return "", err
		}
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return "", err
			}
			all.WriteString(line)
			if strings.HasPrefix(line, tag) {
				break
			}
		}
	}
	return all.String(), nil
}

// serveSMTP is the server of another domain: it takes what it is given.
func serveSMTP(t *testing.T, o *outside) <-chan string {
	t.Helper()
	l := listen(t, o.netns, "tcp", ":25")
	mails := make(chan string, 8)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go takeMail(textproto.NewConn(conn), mails)
		}
	}()
	return mails
}

func takeMail(c *textproto.Conn, mails chan<- string) {
	defer c.Close()
	if c.PrintfLine("220 far.example ESMTP") != nil {
		return
	}
	for {
		order, err := c.ReadLine()
		if err != nil {
			return
		}
		answer := "250 ok"
		switch word, _, _ := strings.Cut(strings.ToUpper(order), " "); word {
		case "DATA":
			_ = c.PrintfLine("354 go on")
			text, err := c.ReadDotBytes()
			if err != nil {
				return
			}
			mails <- string(text)
		case "QUIT":
			answer = "221 bye"
		}
		if c.PrintfLine("%s", answer) != nil {
			return
		}
	}
}
