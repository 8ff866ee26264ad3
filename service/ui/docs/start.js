// All addresses are relative to the page's own, so that it works behind whatever prefix a proxy puts before it. The
// contract names no server, which would mean the root of the host: requests go where the page came from instead.
const place = document.getElementById("contract");
fetch("openapi.json")
  .then((answer) => (answer.ok ? answer.json() : Promise.reject(new Error(`HTTP status ${answer.status}`))))
  .then((contract) =>
    SwaggerUIBundle({
      domNode: place,
      spec: { ...contract, servers: [{ url: new URL(".", document.baseURI).href }] },
      deepLinking: true,
      defaultModelsExpandDepth: 0,
      displayRequestDuration: true,
      tryItOutEnabled: true,
      validatorUrl: null, // another host's
    }),
  )
  .catch((error) => {
    place.textContent = `The contract could not be fetched: ${error.message}`;
  });
