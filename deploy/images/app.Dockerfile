FROM scratch
ARG RECIPE
COPY app /app
EXPOSE 8000
LABEL demo.recipe=$RECIPE
CMD ["/app"]
