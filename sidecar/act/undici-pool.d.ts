/** undici's Pool alone: its whole index costs 6 MB of memory in every model pod. */
declare module 'undici/lib/dispatcher/pool.js' {
  import { Pool } from 'undici';
  export default Pool;
}
